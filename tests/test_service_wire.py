"""Messages that no client of ours sends: the scheduler refuses them and the round goes on."""

import grpc
import numpy as np
import pytest
from doors import channel_of, claimed
from scheduler_run import WAIT, Run, soon, tell
from test_state_round_state import COUNTS, DAY, NO_TIME, PLAN, at, grid, result

from protos.codec import tensor_chunks
from protos.stubs import scheduler_server_pb2 as pb
from protos.stubs import scheduler_server_pb2_grpc as pb_grpc
from scheduler.rules.exact_sum import Sums
from scheduler.rules.metrics import UserResult
from scheduler.service.messages import (
    shares_from_messages,
    shares_to_messages,
)
from scheduler.service.reports import ReportReader, report_head, report_tail
from scheduler.service.user_messages import (
    ReadUsers,
    users_from_messages,
    users_to_messages,
    weights_from_messages,
    weights_to_messages,
)
from scheduler.state.rounds import Share, Timings

BAD, FORBIDDEN = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED
TOO_LARGE = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def run():
    """Rank 1 has pushed its share of the first round, rank 2 has not."""
    made = Run(PLAN)
    made.join()
    soon(made.clients[0].update_global_params, {"w": np.array([1.0, 2.0], np.float32)}, ["mine"])
    made.both(lambda client, rank: tell(client, COUNTS if rank == 1 else {}, DAY))
    made.both(lambda client, _: client.sample_user_list(at()))
    # Not by its client, which would wait for the end of the round.
    made.coordinator.rounds.push(1, at(), [result("a")], NO_TIME, [Sums.whole(grid(4, 0))])
    yield made
    made.close()


def call(run, method, messages):
    said = messages if isinstance(messages, list) else [messages]
    with channel_of(claimed(said), run.address) as channel:
        stub = pb_grpc.SchedulerServerStub(channel)
        answer = getattr(stub, method)(iter(messages) if isinstance(messages, list) else messages, timeout=WAIT)
        return list(answer) if isinstance(answer, grpc.Call) else answer


def head(*uids, when=None):
    return pb.ParamsMessage(report=next(report_head(2, when or at(), [result(uid) for uid in uids])))


def chunks(tensors):
    return [pb.ParamsMessage(chunk=chunk) for chunk in tensor_chunks(tensors)]


KEY = pb.RoundKey(rank=2, date=DAY, round=1)
TAIL = pb.ParamsMessage(report=report_tail(NO_TIME))
HEAD, SUMS = head("b", "c"), chunks(grid(-2, 6))
MANY = pb.UserResult(uid="b", weight=1.0, metrics={f"m{i}": pb.Metric() for i in range(101)})

PUSHES = {
    "nothing": ([], BAD, "the stream ended before its report was complete"),
    "no last report": ([HEAD, *SUMS], BAD, "the stream ended before its report was complete"),
    "no first report": ([*SUMS, TAIL], BAD, "a tensor came before the report"),
    "a report after the last": ([HEAD, *SUMS, TAIL, TAIL], BAD, "a report came after the last one"),
    "private names": ([HEAD, pb.ParamsMessage(private_names=pb.PrivateNames(names=["w"]))], BAD, "not private_names"),
    "an empty message": ([HEAD, pb.ParamsMessage()], BAD, "a push carries reports and chunks, not None"),
    "a date that is none": ([head("b", when=at(date="../../etc"))], BAD, "date '../../etc' is not of the form"),
    "no tensors": ([HEAD, TAIL], BAD, "tensors are missing: w"),
    "floats": ([HEAD, *chunks({"w": np.zeros(2)}), TAIL], BAD, r"'w' is float64[2], expected int64[2]"),
    "another shape": ([HEAD, *chunks({"w": np.zeros(3, int)}), TAIL], BAD, "'w' is int64[3], expected int64[2]"),
    "an unknown tensor": ([HEAD, *chunks({"v": np.zeros(2, int)}), TAIL], BAD, "unknown tensor 'v'; known are w"),
    "a tensor twice": ([HEAD, *SUMS, *SUMS, TAIL], BAD, "'w' came twice"),
    "a private tensor": ([HEAD, *chunks({"mine": np.zeros(2, int)}), TAIL], FORBIDDEN, "'mine' is private"),
    "a uid without end": (
        [pb.ParamsMessage(report=pb.RoundReport(key=KEY, users=[pb.UserResult(uid="u" * 2000)]))],
        TOO_LARGE, "2000 characters",
    ),
    "a uid of nothing": (
        [pb.ParamsMessage(report=pb.RoundReport(key=KEY, users=[pb.UserResult()]))],
        TOO_LARGE, "has 0 characters",
    ),
    "too many metrics": (
        [pb.ParamsMessage(report=pb.RoundReport(key=KEY, users=[MANY]))],
        TOO_LARGE, "uid 'b': 101 metrics",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("messages", "status", "text"), PUSHES.values(), ids=list(PUSHES))
def test_a_malformed_push_is_refused_and_the_round_goes_on(run, messages, status, text):
    with pytest.raises(grpc.RpcError) as caught:
        call(run, "FedAvgUpdate", messages)
    assert caught.value.code() is status
    assert text in caught.value.details()
    # As by hand in test_round_state.
    soon(run.clients[1].fedavg_update, at(), [result("b"), result("c")], lambda: NO_TIME, grid(-2, 6))
    assert soon(run.clients[1].get_global_params, 1)["w"].tolist() == [1.5, 3.5]


COUNTS_MESSAGES = {
    "nothing": ([], BAD, "an empty stream of user counts"),
    "more uids than counts": (
        [pb.UserInstNum(rank=2, date="20200102", split="test", uids=["a", "b"], counts=[1])], BAD, "2 uids but 1 count",
    ),
    "a uid twice": (
        [pb.UserInstNum(rank=2, date="20200102", split="test", uids=["a", "a"], counts=[1, 1])], BAD, "'a' came twice",
    ),
    "a date that is none": ([pb.UserInstNum(rank=2, date="tomorrow", split="test")], BAD, "date 'tomorrow'"),
    "no examples": (
        [pb.UserInstNum(rank=2, date="20200102", split="test", uids=["a"], counts=[0])], BAD, "'a' has no examples",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("messages", "status", "text"), COUNTS_MESSAGES.values(), ids=list(COUNTS_MESSAGES))
def test_malformed_user_counts_are_refused(run, messages, status, text):
    with pytest.raises(grpc.RpcError) as caught:
        call(run, "UpdateUserInstNum", messages)
    assert caught.value.code() is status
    assert text in caught.value.details()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (pb.SimulatorInfo(rank=1, shards=0), "rank 1 has 0 shards"),
        (pb.SimulatorInfo(rank=1, shards=1, days=["today"]), "date 'today' is not of the form"),
    ],
)
def test_a_simulator_that_cannot_be_is_not_let_in(run, message, text):
    with pytest.raises(grpc.RpcError, match=text) as caught:
        call(run, "Register", message)
    assert caught.value.code() is BAD


# -- messages and back -------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5000, 10_001])
def test_shares_counts_and_reports_survive_being_cut_into_messages(size):
    uids = tuple(f"u{i}" for i in range(size))
    share = Share(uids, tuple(range(1, size + 1)), 5, 12_000, (size, 0), tuple(i / 3 for i in range(size)))
    assert shares_from_messages(shares_to_messages({4: share, 5: share})) == {4: share, 5: share}
    # Some came in several pieces.
    weights = dict(zip(uids[::3], share.weights[::3], strict=True))
    users = ReadUsers(dict(zip(uids, share.counts, strict=True)), weights)
    assert users_from_messages(users_to_messages(3, DAY, "train", users)) == (3, DAY, "train", users)
    if weights:
        told = weights_from_messages(weights_to_messages(3, DAY, weights), lambda rank, date: None)
        assert told == (3, DAY, weights)

    results = [UserResult(uid, 2, 0.5, {"loss": (float(i), 2.0)}) for i, uid in enumerate(uids)]
    reader = ReportReader(seed=7)
    for message in report_head(3, at(2, 9), results):
        reader.add(message)
    times = Timings(1.0, 2.0, 3.0, 4.0, uids[-1] if uids else "", 0.5, 0.25)
    reader.add(report_tail(times))
    assert reader.finish() == (3, at(2, 9), results, times)
