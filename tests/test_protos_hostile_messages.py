"""Messages that cannot be right, to a live scheduler and a live data server: refused by name, and nothing changes."""

import math
import os
import socket
import tempfile
from contextlib import ExitStack

import grpc
import numpy as np
import psutil
import pytest
from doors import as_rank
from hostile import DATA, SCHEDULER, WAIT, LiveData, raw_channel, refusal, send
from scheduler_run import Run, background, info, soon, tell
from test_state_round_state import COUNTS, DAY, NEXT, NO_TIME, PLAN, at, frozen, grid, result

from protos.codec import TensorSpec, tensor_chunks, to_bundle
from protos.errors import MAX_MESSAGE, RunEnded
from protos.shared_arrays import SharedArrays, machine_id, unnamed_file
from protos.stubs import data_server_pb2 as dpb
from protos.stubs import scheduler_server_pb2 as pb
from protos.stubs import tensor_pb2
from scheduler.rules.exact_sum import Sums, sum_specs
from scheduler.service.messages import handle_to_message
from scheduler.service.reports import report_head, report_tail
from scheduler.state.rounds import Timings

BAD, STATE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
NONE, DONE = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS
PRIVATE, LARGE = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED
LONG = "u" * 2000
NAN, INF = math.nan, math.inf
MIB = 1 << 20

# -- the scheduler -----------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    """Rank 1 has pushed its share of the first round, rank 2 has not; both watch."""
    made = Run(PLAN)
    made.join()
    for client in made.clients:
        soon(client.watch, lambda error: None)
    soon(made.clients[0].update_global_params, {"w": np.array([1.0, 2.0], np.float32)}, ["mine"])
    made.both(lambda client, rank: tell(client, COUNTS if rank == 1 else {}, DAY))
    made.both(lambda client, _: client.sample_user_list(at()))
    # Not by its client, which would wait for the end of the round.
    made.coordinator.rounds.push(1, at(), [result("a")], NO_TIME, [Sums.whole(grid(4, 0))])
    yield made
    # After all that was refused, the round ends as by hand in test_round_state.
    soon(made.clients[1].fedavg_update, at(), [result("b"), result("c")], lambda: NO_TIME, grid(-2, 6))
    assert soon(made.clients[1].get_global_params, 1)["w"].tolist() == [1.5, 3.5]
    assert made.coordinator.failure is None
    made.close()


def all_state(run):
    """What the scheduler knows, but for who asks at this moment."""
    coordinator = run.coordinator
    known = [coordinator, coordinator._run, coordinator._members, coordinator._posts, coordinator.rounds,
             coordinator.params, coordinator._live.state, coordinator._notifier]  # fmt: skip
    return [frozen({name: value for name, value in vars(part).items() if name != "_waiting"}) for part in known]


def key(rank=2, date=DAY, number=1, step=0):
    return pb.RoundKey(rank=rank, date=date, round=number, step=step)


def user(uid="b", **changes):
    return pb.UserResult(**{"uid": uid, "examples": COUNTS.get(uid, 1), "weight": 2.0, **changes})


def report(*users, **changes):
    return pb.RoundReport(key=key(**changes), users=users)


HEAD = next(report_head(2, at(), [result("b"), result("c")]))
TAIL = report_tail(NO_TIME)


def times(*values):
    return report_tail(Timings(*values))


def tensors(**arrays):
    return list(tensor_chunks(arrays))


SUMS = tensors(w=np.array([-2, 6]) << 45)


def parts(*messages):
    """Reports and chunks as a push carries them."""
    kinds = {pb.RoundReport: "report", tensor_pb2.TensorChunk: "chunk", pb.PrivateNames: "private_names"}
    return [pb.ParamsMessage(**{kinds[type(m)]: m}) for m in messages]


def chunk(name="w", dtype="int64", shape=(2,), offset=0, data=bytes(16)):
    return tensor_pb2.TensorChunk(name=name, dtype=dtype, shape=shape, offset=offset, data=data)


def metric(name="loss", total=1.0, count=1.0):
    return {name: pb.Metric(sum=total, count=count)}


def counts(uids=("z",), numbers=(1,), rank=2, date=NEXT, split="test", weights=()):
    return pb.UserInstNum(rank=rank, date=date, split=split, uids=uids, counts=numbers, weights=weights)


def weights(uids=("z",), numbers=(1.0,), rank=2, date=DAY):
    return pb.UserWeights(rank=rank, date=date, uids=uids, weights=numbers)


def simulator(**changes):
    return pb.SimulatorInfo(**{"rank": 2, "host": "h", "data_address": "a:1", "shards": 1, "days": [DAY], **changes})


def segments(*names, rank=2, digest=b"d"):
    files = [pb.Segment(name=name, size=1, digest=digest) for name in names or ["a.private"]]
    return pb.SegmentReport(rank=rank, step=1, segments=files)


# Reports that every method which takes reports refuses: name -> (reports, status, text).
REPORTS = {
    "another round": ([report(user(), number=2)], STATE, "round 2 came, but"),
    "another step": ([report(user(), step=7)], STATE, "came, but"),
    "the last step there is": ([report(user(), step=2**64 - 1)], STATE, "came, but"),
    "another day": ([report(user(), date=NEXT)], STATE, "date 20200102"),
    "a path for a date": ([report(user(), date="../../x")], BAD, "date '../../x' is not"),
    "a long date": ([report(user(), date="2" * 5000)], BAD, "is not of the form YYYYMMDD"),
    "an unknown rank": ([report(user(), rank=9)], NONE, "rank 9 is not a simulator"),
    "the scheduler's rank": ([report(user(), rank=0)], NONE, "rank 0 is not a simulator"),
    "no round": ([TAIL], BAD, "the first report names no round"),
}
# The same of a round that is on: for pushes only, no evaluation is.
PUSHED = {
    **REPORTS,
    "a replay": ([report(user("a", weight=4.0), rank=1)], DONE, "rank 1 has already pushed"),
    "a user too many": ([report(user("b"), user("c"), user("a"))], STATE, "3 or more came, it has 2"),
    "an unknown user": ([report(user("b"), user("nobody")), TAIL], STATE, "'nobody'"),
    "a user twice": ([report(user("b"), user("b")), TAIL], STATE, "users are not those of its share"),
    "a user missing": ([report(user("b")), TAIL], STATE, "['c']"),
    "other examples": ([report(user("b", examples=3), user("c")), TAIL], STATE, "'b' came with 3 examples, it has 2"),
    "a long uid": ([report(user(LONG))], LARGE, "2000 characters"),
    "no uid": ([report(user(""))], LARGE, "has 0 characters"),
    "a negative weight": ([report(user(weight=-1.0))], BAD, "uid 'b' has weight -1.0"),
    "no weight": ([report(user(weight=0.0), user("c")), TAIL], STATE, "uid 'b' came with weight 0.0, it has 2.0"),
    "a weight of NaN": ([report(user(weight=NAN))], BAD, "uid 'b' has weight nan"),
    "an infinite weight": ([report(user(weight=INF))], BAD, "uid 'b' has weight inf"),
    "a huge weight": ([report(user(weight=1e308), user("c")), TAIL], STATE, "uid 'b' came with weight 1e+308"),
    "a tiny weight": ([report(user(weight=5e-324), user("c")), TAIL], STATE, "uid 'b' came with weight 5e-324"),
    "too many metrics": (
        [report(user(metrics={f"m{i}": pb.Metric() for i in range(101)}))], LARGE, "uid 'b': 101 metrics",
    ),
    "too many metrics together": (
        [report(*(user(u, metrics={f"{u}{i}": pb.Metric() for i in range(60)}) for u in "bc"))],
        LARGE, "more than 100 different metrics",
    ),
    "a long metric": ([report(user(metrics=metric(LONG)))], LARGE, "a metric's name has 2000 characters"),
    "a metric like a column": ([report(user(metrics=metric("seconds")))], BAD, "'seconds', like a column"),
    "a metric without a name": ([report(user(metrics=metric("")))], LARGE, "a metric's name has 0 characters"),
    "a count of NaN": ([report(user(metrics=metric(count=NAN)))], BAD, "metric 'loss' has a count of nan"),
    "a negative count": ([report(user(metrics=metric(count=-1.0)))], BAD, "metric 'loss' has a count of -1.0"),
    "times of NaN": ([HEAD, times(NAN)], BAD, "times must be finite"),
    "infinite times": ([HEAD, times(0.0, INF)], BAD, "times must be finite"),
    "negative times": ([HEAD, times(0.0, 0.0, -1.0)], BAD, "times must be finite and not negative"),
    "no end": ([HEAD], BAD, "the stream ended before its report was complete"),
    "a report after the end": ([HEAD, TAIL, TAIL], BAD, "a report came after the last one"),
    "an empty report": ([HEAD, pb.RoundReport()], BAD, "an empty report after the first"),
}  # fmt: skip

CHUNKS = {
    "a float": ([chunk(dtype="float64")], BAD, "'w' is float64[2], expected int64[2]"),
    "an unknown dtype": ([chunk(dtype="object")], BAD, "unknown dtype 'object'"),
    "a structured dtype": ([chunk(dtype="int64,(9999999,)int64")], BAD, "unknown dtype"),
    "another shape": ([chunk(shape=(1,), data=bytes(8))], BAD, "'w' is int64[1], expected int64[2]"),
    "more bytes than the shape": ([chunk(data=bytes(24))], BAD, "its shape holds 16"),
    "a huge shape": ([chunk(shape=(1 << 62, 1 << 62))], LARGE, "more than 1099511627776 elements"),
    "a terabyte": ([chunk(shape=(1 << 37,))], BAD, "expected int64[2]"),
    "many dimensions": ([chunk(shape=(1,) * 33)], LARGE, "33 dimensions"),
    "an unknown name": ([chunk("v")], BAD, "unknown tensor 'v'; known are w"),
    "a private name": ([chunk("mine")], PRIVATE, "parameter 'mine' is private"),
    "a long name": ([chunk(LONG)], LARGE, "2000 characters"),
    "no name": ([chunk("")], LARGE, "0 characters"),
    "a gap": ([chunk(offset=8, data=bytes(8))], BAD, "out of order"),
    "a hole": ([chunk(data=bytes(4)), chunk(offset=8, data=bytes(8))], BAD, "out of order (expected byte 4"),
    "nothing": ([chunk(data=b"")], BAD, "an empty chunk at byte 0 of 16"),
    "empty after the end": ([chunk(), chunk(offset=16, data=b"")], BAD, "an empty chunk at byte 16"),
    "twice": ([chunk(), chunk()], BAD, "'w' came twice"),
}

LIMIT = 2 * (2**62 // 3 + 1)  # two of a cohort of three
SUM_VALUES = {
    "a sum beyond its users": ([*SUMS[:0], *tensors(w=np.array([LIMIT + 1, 0]))], BAD, "parameter 'w': a sum of"),
    "the least there is": (tensors(w=np.array([-(2**63), 0])), BAD, "a sum of 9223372036854775808"),
}

SCHEDULER_CASES = [
    ("Register", [simulator()], DONE, "rank 2 has already joined"),
    ("Register", [simulator(rank=9)], NONE, "rank 9 is not a simulator"),
    ("Register", [simulator(rank=2**32 - 1)], PRIVATE, "rank 1 spoke for rank 4294967295"),
    ("Register", [simulator(shards=0)], BAD, "rank 2 has 0 shards"),
    ("Register", [simulator(shards=2**31)], BAD, "shards; 1 to 4096"),
    ("Register", [simulator(host=LONG)], LARGE, "its host has 2000 characters"),
    ("Register", [simulator(data_address=LONG)], LARGE, "its data address has 2000 characters"),
    ("Register", [simulator(days=["../../x"])], BAD, "date '../../x'"),
    ("Register", [simulator(days=[DAY] * 10_001)], LARGE, "10001 days"),
    ("NextStages", [pb.PlanRequest(rank=9)], NONE, "rank 9 is not a simulator"),
    ("NextStages", [pb.PlanRequest(rank=2, step=1)], STATE, "what comes after 1 rounds of the run, 0 are done"),
    ("NextStages", [pb.PlanRequest(rank=2, step=2**63)], STATE, "0 are done"),
    ("Exchange", [pb.ExchangeRequest(rank=9, key="model")], NONE, "rank 9"),
    ("Exchange", [pb.ExchangeRequest(rank=2, key=LONG)], LARGE, "key has 2000 characters"),
    ("Exchange", [pb.ExchangeRequest(rank=2)], LARGE, "key has 0 characters"),
    ("Watch", [pb.WatchRequest(rank=9)], NONE, "rank 9"),
    ("Watch", [pb.WatchRequest(rank=2)], DONE, "rank 2 is watching already"),
    ("ReportFailure", [pb.Failure(rank=9, message="x" * MIB)], NONE, "rank 9"),
    ("RequestStop", [pb.StopRequest(rank=9, reason="SIGTERM")], NONE, "rank 9"),
    ("RequestStop", [pb.StopRequest(rank=2, reason="x" * MIB)], LARGE, "a reason to stop has 1048576 characters"),
    ("Exit", [pb.SimulatorRank(rank=9)], NONE, "rank 9"),
    ("GetSharedMemory", [pb.SimulatorRank(rank=9)], NONE, "rank 9"),
    ("GetGlobalParams", [pb.GetGlobalParamsRequest(rank=9, step=0)], NONE, "rank 9"),
    ("GetGlobalParams", [pb.GetGlobalParamsRequest(rank=2, step=2**64 - 1)], STATE, "0 is due"),
    ("ChooseExchange", [pb.Transport(rank=9)], NONE, "rank 9"),
    ("ChooseExchange", [pb.Transport(rank=2)], STATE, "before any day is loaded"),
    ("GetGlobalParams", [pb.GetGlobalParamsRequest(rank=2, step=0, part=True)], STATE, "rank 2 has no part"),
    ("FedAvgUpdate", parts(*SUMS, HEAD, TAIL), BAD, "a tensor came before the report"),
    ("UpdateUserInstNum", [], BAD, "an empty stream"),
    ("UpdateUserInstNum", [counts(rank=9)], NONE, "rank 9"),
    ("UpdateUserInstNum", [counts(date=DAY, split="train")], DONE, "rank 2 has already told"),
    ("UpdateUserInstNum", [counts(date="20991231")], NONE, "date '20991231' is not a day of this run"),
    ("UpdateUserInstNum", [counts(date="../../x")], BAD, "date '../../x'"),
    ("UpdateUserInstNum", [counts(split="val")], BAD, "split 'val'"),
    ("UpdateUserInstNum", [counts(("y", "z"))], BAD, "2 uids but 1 counts"),
    ("UpdateUserInstNum", [counts(("z", "z"), (1, 1))], BAD, "'z' came twice"),
    ("UpdateUserInstNum", [counts(numbers=(0,))], BAD, "'z' has no examples"),
    ("UpdateUserInstNum", [counts(numbers=(2**64 - 1,))], BAD, "'z' has 18446744073709551615 examples"),
    ("UpdateUserInstNum", [counts((LONG,))], LARGE, "2000 characters"),
    ("UpdateUserInstNum", [counts(("",))], LARGE, "0 characters"),
    ("UpdateUserInstNum", [counts(), counts((), ())], BAD, "a message without users"),
    ("UpdateUserInstNum", [counts(split="train", weights=(1.0, 2.0))], BAD, "1 uids but 2 weights"),
    ("UpdateUserInstNum", [counts(("y", "z"), (1, 1), split="train", weights=(1.0,))], BAD, "2 uids but 1 weights"),
    ("UpdateUserInstNum", [counts(split="train", weights=(NAN,))], BAD, "uid 'z' has weight nan"),
    ("UpdateUserInstNum", [counts(split="train", weights=(INF,))], BAD, "uid 'z' has weight inf"),
    ("UpdateUserInstNum", [counts(split="train", weights=(-1.0,))], BAD, "uid 'z' has weight -1.0"),
    ("UpdateUserInstNum", [counts(weights=(1.0,))], BAD, "date 20200102, test: uid 'z' came with a weight"),
    ("UpdateUserWeights", [], BAD, "an empty stream of weights"),
    ("UpdateUserWeights", [weights(rank=9)], NONE, "rank 9"),
    ("UpdateUserWeights", [weights(date="../../x")], BAD, "date '../../x'"),
    ("UpdateUserWeights", [weights()], STATE, "rank 2 has no weights of 20200101 to tell"),
    ("UpdateUserWeights", [weights(date=NEXT)], STATE, "rank 2 has no weights of 20200102 to tell"),
    ("UpdateGlobalParams", parts(*tensors(w=np.zeros(2, np.float32))), DONE, "already set"),
    ("UpdateGlobalParams", parts(*tensors(w=np.array([NAN, 0], np.float32))), DONE, "already set"),
    ("UpdateGlobalParams", parts(*tensors(mine=np.zeros(2))), PRIVATE, "'mine' is private"),
    ("UpdateGlobalParams", parts(pb.PrivateNames(names=[LONG])), LARGE, "2000 characters"),
    ("UpdateGlobalParams", parts(pb.PrivateNames(names=["p"] * 65_537)), LARGE, "more than 65536 private names"),
    ("UpdateGlobalParams", [pb.ParamsMessage()], BAD, "an empty message"),
    ("UpdateGlobalParams", parts(HEAD, *tensors(w=np.zeros(2, np.float32)), TAIL), STATE, "it takes deltas"),
    ("FedAvgUpdate", [], BAD, "the stream ended before"),
    ("FedAvgUpdate", [pb.ParamsMessage()], BAD, "not None"),
    ("FedAvgUpdate", parts(HEAD, TAIL), BAD, "tensors are missing: w"),
    ("FedAvgUpdate", parts(HEAD, chunk(data=bytes(8)), TAIL), BAD, "the stream ended at byte 8 of 16"),
    ("FedAvgUpdateInMemory", [pb.MemoryPush(reports=[HEAD, TAIL])], BAD, "rank 2 pushed 2 users but 0 sums"),
    ("UpdateTestMetrics", [], BAD, "the stream ended before"),
    ("EndRound", [key(rank=9)], NONE, "rank 9"),
    ("EndRound", [key(step=2**63)], STATE, "0 is due"),
    ("GetCheckpoints", [pb.SimulatorRank(rank=9)], NONE, "rank 9"),
    ("Restore", [pb.RestoreRequest(rank=9, step=1)], NONE, "rank 9"),
    ("Restore", [pb.RestoreRequest(rank=2, step=1)], NONE, "there is no checkpoint after 1 rounds"),
    ("ReportSegments", [segments(rank=9)], NONE, "rank 9"),
    ("ReportSegments", [segments()], STATE, "no checkpoint is being made of the state after 1 rounds"),
    ("ReportSegments", [segments("../../x")], BAD, "'../../x' is not the name of a file"),
    ("ReportSegments", [segments("/etc/passwd")], BAD, "'/etc/passwd' is not the name"),
    ("ReportSegments", [segments(LONG)], BAD, "is not the name of a file"),
    ("ReportSegments", [segments("")], BAD, "'' is not the name of a file"),
    ("ReportSegments", [segments(*["a"] * 1001)], LARGE, "rank 2 names 1001 files"),
    ("ReportSegments", [segments(digest=bytes(MIB))], BAD, "is not the name of a file"),
]  # fmt: skip
for _sample in ("SampleUsersToTrain", "SampleUsersWithHash", "FixedUsersToTrain"):
    SCHEDULER_CASES.append((_sample, [pb.SampleRequest(key=key(rank=9), rounds=1)], NONE, "rank 9"))
for _changes, _status, _text in (
    ({"date": "../../x"}, NONE, "no train users"), ({"number": 2**32 - 1}, STATE, "round 4294967295"),
    ({"step": 2**63}, STATE, "0 is due"), ({"step": 100}, None, ""),
):  # fmt: skip
    if _status is not None:
        SCHEDULER_CASES.append(
            ("SampleUsersToTrain", [pb.SampleRequest(key=key(**_changes), rounds=1)], _status, _text)
        )
SCHEDULER_CASES += [
    ("SampleUsersToTrain", [pb.SampleRequest(key=key(), rounds=2**32 - 1)], BAD, "1 to 32"),
    ("SampleUsersToTrain", [pb.SampleRequest()], NONE, "rank 0"),
    ("SampleUsersWithHash", [pb.SampleRequest(key=key(), rounds=1)], STATE, "samples with 'fixed'"),
    ("SampleUsersToTest", [pb.TestRequest(key=key(rank=9))], NONE, "rank 9"),
    ("SampleUsersToTest", [pb.TestRequest(key=key(step=2**63, number=5))], STATE, "0 is due"),
    (
        "SampleUsersToTest",
        [pb.TestRequest(key=key(number=5), together=2**64 - 1)],
        STATE,
        "after 0 rounds was asked for as the one after 5",
    ),
]
SCHEDULER_CASES += [
    ("FedAvgUpdate", parts(*sent[:-1], *SUMS, sent[-1]), *rest) if TAIL in sent[1:]
    else ("FedAvgUpdate", parts(*sent, *SUMS), *rest)
    for sent, *rest in PUSHED.values()
]  # fmt: skip
SCHEDULER_CASES += [("FedAvgUpdate", parts(HEAD, *sent, TAIL), *rest) for sent, *rest in CHUNKS.values()]
SCHEDULER_CASES += [("FedAvgUpdate", parts(HEAD, *sent, TAIL), *rest) for sent, *rest in SUM_VALUES.values()]
SCHEDULER_CASES += [("FedAvgUpdateInMemory", [pb.MemoryPush(reports=s)], *rest) for s, *rest in PUSHED.values()]
SCHEDULER_CASES += [("UpdateTestMetrics", sent, *rest) for sent, *rest in REPORTS.values()]
SCHEDULER_CASES += [("UpdateGlobalParams", parts(*sent), *rest) for sent, *rest in REPORTS.values() if TAIL not in sent]

GARBAGE = {"garbage": b"\xff\xff\xff\xff\xff", "a text that is no UTF-8": b"\x12\x02\xff\xfe", "cut off": b"\x12\x05ab"}


@pytest.mark.parametrize(
    ("method", "messages", "status", "text"), SCHEDULER_CASES,
    ids=[f"{number}-{case[0]}" for number, case in enumerate(SCHEDULER_CASES)],
)  # fmt: skip
def test_the_scheduler_refuses_and_keeps_its_state(run, method, messages, status, text):
    before = all_state(run)
    with raw_channel(run.address) as channel:
        got = refusal(channel, SCHEDULER, method, messages)
    assert (got[0], text in got[1]) == (status, True), got
    assert all_state(run) == before


@pytest.mark.parametrize("method", [m.name for m in SCHEDULER.methods])
def test_the_scheduler_refuses_what_is_no_message(run, method):
    before = all_state(run)
    with raw_channel(run.address) as channel:
        for bad in GARBAGE.values():
            status, text = refusal(channel, SCHEDULER, method, [bad])
            # Fields that a message does not have are no mistake to protobuf.
            assert status in (BAD, PRIVATE, NONE, LARGE), (bad, text)
        assert refusal(channel, SCHEDULER, method, [GARBAGE["garbage"]])[1].startswith(f"{method}: a message cannot be")
        assert refusal(channel, SCHEDULER, method, [])[0] == BAD
        assert refusal(channel, SCHEDULER, method, [bytes(65 * MIB)])[0] == LARGE
    assert all_state(run) == before


def test_every_method_of_the_scheduler_is_tried():
    assert {case[0] for case in SCHEDULER_CASES} == {method.name for method in SCHEDULER.methods}


def test_garbage_after_a_whole_push_does_not_let_it_through(run):
    """gRPC takes a message that it cannot decode, or that is too large, for the end of the stream."""
    before = all_state(run)
    push = parts(HEAD, *SUMS, TAIL)
    with raw_channel(run.address) as channel:
        assert refusal(channel, SCHEDULER, "FedAvgUpdate", [*push, b"\xff"])[0] == BAD
        assert refusal(channel, SCHEDULER, "FedAvgUpdate", [*push[:-1], bytes(65 * MIB)])[0] == LARGE
    assert all_state(run) == before


# -- shared memory -----------------------------------------------------------------


def handle(fd, token, pid=None, machine=None):
    return pb.MemoryHandle(
        machine=machine_id() if machine is None else machine, pid=pid or os.getpid(), fd=fd, token=token
    )


def memory_push(*handles):
    return pb.MemoryPush(reports=[HEAD, TAIL], sums=handles)


TOKEN = b"0123456789abcdef"


@pytest.fixture
def opened():
    """name -> file descriptor of what is none of a shard's sums; and memory that is too small for them."""
    with ExitStack() as stack:
        read, write = os.pipe()
        file = stack.enter_context(tempfile.TemporaryFile("w+b"))
        file.write(TOKEN + bytes(4096))
        file.flush()
        plain, small = os.memfd_create("plain"), unnamed_file("small")
        os.write(plain, TOKEN + bytes(4096))
        fds = {
            "a pipe to read": read, "a pipe to write": write, "memory that may shrink": plain, "another token": small,
            "a device": os.open("/dev/null", os.O_RDWR), "a folder": os.open("/", os.O_RDONLY),
        }  # fmt: skip
        for fd in fds.values():
            stack.callback(os.close, fd)
        fds |= {"a file": file.fileno(), "a socket": stack.enter_context(socket.socket()).fileno()}
        yield fds, SharedArrays(small, {"w": TensorSpec("int8", (1,))}, create=True).handle()


def test_a_handle_that_is_not_a_shards_sums_is_refused_and_nothing_is_written_to(run, opened):
    before, (fds, small) = all_state(run), opened
    handles = {name: handle(fd, TOKEN) for name, fd in fds.items()}
    handles |= {
        "too small": handle(small.fd, small.token), "no token": handle(small.fd, b""),
        "a long token": handle(small.fd, b"x" * MIB), "no descriptor": handle(2**31, TOKEN),
        "the last descriptor": handle(2**32 - 1, TOKEN), "no process": handle(small.fd, small.token, pid=2**32 - 1),
        "process 1": handle(0, TOKEN, pid=1), "another machine": handle(small.fd, small.token, machine="elsewhere"),
        "a path for a machine": handle(small.fd, small.token, machine="../../x"),
    }  # fmt: skip
    with raw_channel(run.address) as channel:
        for name, bad in handles.items():
            status, text = refusal(channel, SCHEDULER, "FedAvgUpdateInMemory", [memory_push(bad)])
            assert status == NONE, (name, text)
        twice = memory_push(handles["too small"], handles["too small"])
        assert refusal(channel, SCHEDULER, "FedAvgUpdateInMemory", [twice])[1] == "rank 2 names the same memory twice"
        many = memory_push(handles["too small"], handles["a file"])
        assert "names 2 memories, it has 1 shards" in refusal(channel, SCHEDULER, "FedAvgUpdateInMemory", [many])[1]
        # The memory of the global parameters is none of sums either.
        own = pb.MemoryHandle.FromString(send(channel, SCHEDULER, "GetSharedMemory", [pb.SimulatorRank(rank=2)])[0])
        status, text = refusal(channel, SCHEDULER, "FedAvgUpdateInMemory", [memory_push(own)])
        assert (status, "cannot hold" in text) == (NONE, True), text
    assert os.pread(fds["a file"], 5000, 0) == TOKEN + bytes(4096)
    assert all_state(run) == before


def test_sums_in_memory_that_could_overflow_are_refused(run):
    before = all_state(run)
    memory = SharedArrays(unnamed_file("sums"), sum_specs({"w": TensorSpec("float32", (2,))}), create=True)
    memory["sum/w"][:], memory["touched/w"][:] = [0, LIMIT + 1], True
    with raw_channel(run.address) as channel:
        push = memory_push(handle_to_message(memory.handle()))
        status, text = refusal(channel, SCHEDULER, "FedAvgUpdateInMemory", [push])
    assert (status, "parameter 'w': a sum of" in text) == (BAD, True)
    assert all_state(run) == before


def test_memory_of_sums_cannot_be_cut_short():
    memory = SharedArrays(unnamed_file("sums"), {"w": TensorSpec("int64", (2,))}, create=True)
    with pytest.raises(PermissionError):
        os.ftruncate(memory.handle().fd, 0)


# -- before the initial parameters ---------------------------------------------------


@pytest.fixture
def empty():
    made = Run(PLAN)
    made.join()
    yield made
    made.close()


INITIAL = {
    "NaN": (tensors(w=np.array([1.0, NAN])), BAD, "initial parameter 'w' holds NaN"),
    "infinity": (tensors(w=np.array([1.0, INF])), BAD, "initial parameter 'w' holds NaN or infinity"),
    "whole numbers": (tensors(w=np.array([1])), BAD, "'w' is int64: shared parameters are floating-point"),
    "a private one": ([pb.PrivateNames(names=["w"]), *tensors(w=np.zeros(1))], PRIVATE, "'w' is private"),
    "nothing": ([pb.PrivateNames(names=["w"])], BAD, "no shared parameters"),
    "32 GiB": ([chunk(dtype="float32", shape=(1 << 33,))], BAD, "the stream ended at byte 16 of 34359738368"),
    "a terabyte": ([chunk(dtype="float32", shape=(1 << 38,))], LARGE, "beyond the bytes that may come"),
    "half a tensor": ([chunk(dtype="float64", shape=(4,))], BAD, "the stream ended at byte 16 of 32"),
}


@pytest.mark.parametrize(("messages", "status", "text"), INITIAL.values(), ids=list(INITIAL))
def test_initial_parameters_that_cannot_be_are_refused(empty, messages, status, text):
    before, memory = all_state(empty), psutil.Process().memory_info().vms
    with raw_channel(empty.address) as channel:
        got = refusal(channel, SCHEDULER, "UpdateGlobalParams", parts(*messages), timeout=60)
    assert (got[0], text in got[1]) == (status, True), got
    assert all_state(empty) == before
    # A shape alone takes no memory, not even an address.
    assert psutil.Process().memory_info().vms - memory < 1 << 30


def test_garbage_after_initial_parameters_does_not_let_them_through(empty):
    with raw_channel(empty.address) as channel:
        for bad, status in ((b"\xff", BAD), (bytes(65 * MIB), LARGE)):
            sent = [*parts(*tensors(w=np.ones(3))), bad]
            assert refusal(channel, SCHEDULER, "UpdateGlobalParams", sent)[0] == status
            assert empty.coordinator.params.specs() is None


# -- what a simulator may say, but not so much of it ---------------------------------


def test_a_huge_failure_reaches_all_with_its_beginning_and_its_end(empty):
    told = f"rank 2: it began\n{'é' * 200_000}\nit ended"
    waiting = background(empty.clients[0].exchange, "key", b"")
    soon(empty.clients[1].report_failure, told)
    with pytest.raises(RunEnded, match=r"(?s)^rank 2: it began\n.* \.\.\. ") as caught:
        waiting.result(WAIT)
    assert len(str(caught.value)) <= MAX_MESSAGE


def test_calls_of_one_rank_that_wait_are_bounded_and_end_with_their_callers(empty):
    with as_rank(1, raw_channel(empty.address)) as channel:
        path = f"/{SCHEDULER.full_name}/GetGlobalParams"
        call = channel.unary_stream(path, request_serializer=lambda m: m.SerializeToString())
        waits = [call(pb.GetGlobalParamsRequest(rank=1), timeout=WAIT) for _ in range(5)]
        ended = [background(list, wait) for wait in waits]
        first = next(iter(_finished(ended)))
        error = first.exception()
        assert error.code() == LARGE
        assert "rank 1 has 4 calls that wait" in error.details()
        for wait in waits:
            wait.cancel()
    with empty.changed:
        for _ in range(200):
            if not empty.coordinator._run._waiting:
                break
            empty.changed.wait(0.1)
        assert not empty.coordinator._run._waiting


def _finished(futures):
    """Those that end, as they end."""
    from concurrent.futures import as_completed

    yield from as_completed(futures, timeout=WAIT)


# -- the data server ---------------------------------------------------------------

OWN = {"bias": np.array([0.5, -1.5], np.float32)}
ROWS = {"x": np.array([1, 2], np.int32)}
UID, OTHERS = "mine1", "yours"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    made = LiveData(tmp_path_factory.mktemp("data") / "store", OWN)
    with raw_channel(made.address) as channel:
        send(channel, DATA, "SendData", [user_data()])
        send(channel, DATA, "UpdateUserParams", own_params(step=3))
    yield made
    made.close()


def data_key(uid=UID, date=DAY, split="train"):
    return dpb.UserDataKey(uid=uid, set=dpb.DataSet(date=date, split=split))


def user_data(examples=ROWS, **changes):
    bundle = examples if isinstance(examples, tensor_pb2.TensorBundle) else to_bundle(examples)
    return dpb.UserData(key=data_key(**changes), examples=bundle)


def params_key(uid=UID, step=4):
    return dpb.UserParamsKey(uid=uid, step=step)


def own_params(chunks=None, **changes):
    chunks = tensors(**OWN) if chunks is None else chunks
    return [dpb.UserParams(key=params_key(**changes) if i == 0 else None, chunk=c) for i, c in enumerate(chunks)]


def stored(arrays=None, **changes):
    return dpb.StoredParams(key=params_key(**changes), params=to_bundle(OWN if arrays is None else arrays))


def own_pieces():
    """A user's private parameters, a value a message."""
    sent = [tensor_pb2.TensorBundle(tensors=[c], more=i == 0) for i, c in enumerate(tensor_chunks(OWN, 4))]
    return [dpb.StoredParams(key=params_key() if i == 0 else None, params=b) for i, b in enumerate(sent)]


# To a server that has no examples yet.
RESTORED = {
    "an unknown array": (stored({"w": np.zeros(2)}), BAD, "private parameter 'w' float64[2] is not the model's"),
    "another shape": (stored({"bias": np.zeros(3, np.float32)}), BAD, "float32[3] is not the model's"),
    "NaN": (stored({"bias": np.array([NAN, 0], np.float32)}), BAD, "'bias' holds NaN or infinity"),
    "nothing": (stored({}), BAD, "private parameters are missing: ['bias']"),
    "another's uid": (stored(uid=OTHERS), STATE, "another data server"),
    "a long uid": (stored(uid=LONG), LARGE, "2000 characters"),
    "a round without end": (stored(step=2**63), BAD, "round 9223372036854775808 of the run"),
    "no key": (dpb.StoredParams(params=to_bundle(OWN)), LARGE, "0 characters"),
}


RESTORED_PIECES = {
    "the last is missing": ([own_pieces()[0]], BAD, "ended before the last piece"),
    "half": ([own_pieces()[0], stored()], BAD, "uid 'mine1': uid 'mine1' came before its last piece"),
    "of nobody": (own_pieces()[1:], LARGE, "0 characters"),
    "out of order": ([own_pieces()[0], dpb.StoredParams(params=own_pieces()[0].params)], BAD, "out of order"),
}


@pytest.mark.parametrize(
    ("messages", "status", "text"),
    [*(([message], *rest) for message, *rest in RESTORED.values()), *RESTORED_PIECES.values()],
    ids=[*RESTORED, *RESTORED_PIECES],
)
def test_what_no_checkpoint_holds_is_not_restored(tmp_path, messages, status, text):
    made = LiveData(tmp_path / "store", OWN)
    with raw_channel(made.address) as channel:
        got = refusal(channel, DATA, "RestoreUserParams", [stored(uid="mine2"), *messages])
        assert (got[0], text in got[1]) == (status, True), got
        assert made.contents() == {}
        send(channel, DATA, "RestoreUserParams", [stored(step=3), stored(step=7), stored(step=5)])
    assert made.store.get_private(UID, 8) == made.store.get_private(UID, 6) == to_bundle(OWN).SerializeToString()
    assert made.store.get_private(UID, 5) is None
    made.close()


KEYS = {
    "a path for a date": ({"date": "../../x"}, BAD, "date '../../x' is not of the form"),
    "a long date": ({"date": "2" * 600}, BAD, "is not of the form"),
    "a split": ({"split": "val"}, BAD, "split 'val'"),
    "a long split": ({"split": "x" * MIB}, BAD, "is neither 'train' nor 'test'"),
    "another's uid": ({"uid": OTHERS}, STATE, "'yours' belongs to another data server"),
    "a long uid": ({"uid": LONG}, LARGE, "2000 characters"),
    "no uid": ({"uid": ""}, LARGE, "0 characters"),
}
BUNDLES = {
    "no arrays": ({}, BAD, "no arrays"),
    "no examples": ({"x": np.zeros(0)}, BAD, "has no examples"),
    "lengths": ({"x": np.zeros(2), "y": np.zeros(3)}, BAD, "arrays do not match"),
    "a number": ({"x": np.array(1.0)}, BAD, "is not an array with one row an example"),
    "a terabyte": (tensor_pb2.TensorBundle(tensors=[chunk(shape=(1 << 37,))]), LARGE, "beyond the bytes"),
    "half": (tensor_pb2.TensorBundle(tensors=[chunk(shape=(4,))]), BAD, "the stream ended at byte 16 of 32"),
    "objects": (tensor_pb2.TensorBundle(tensors=[chunk(dtype="object")]), BAD, "unknown dtype 'object'"),
}
UNKNOWN = "mine-unknown"


def in_pieces(*chunks, last=False):
    """Chunks as a user's examples, one a message; all but the last have more to come."""
    bundles = [tensor_pb2.TensorBundle(tensors=[c], more=True) for c in chunks]
    bundles[-1].more = not last
    return [dpb.UserData(key=data_key() if i == 0 else None, examples=b) for i, b in enumerate(bundles)]


HALVES = list(tensor_chunks({"x": np.arange(6.0)}, 24))
EMPTY = dpb.UserData(examples=tensor_pb2.TensorBundle(more=True))
PIECES = {
    "the last is missing": (in_pieces(*HALVES), BAD, "ended before the last piece"),
    "out of order": (in_pieces(*HALVES[::-1], last=True), BAD, "out of order"),
    "one is missing": (in_pieces(HALVES[0], *tensors(y=np.zeros(6)), last=True), BAD, "out of order"),
    "cut off": (in_pieces(HALVES[0], last=True), BAD, "the stream ended at byte 24 of 48"),
    "twice": (in_pieces(*HALVES, *HALVES, last=True), BAD, "'x' came twice"),
    "of another user": ([in_pieces(*HALVES)[0], user_data(uid="mine2")], BAD, "'mine1': uid 'mine2' came before its"),
    "of the same user": ([in_pieces(*HALVES)[0], user_data()], BAD, "uid 'mine1' came before its last piece"),
    "of nobody": ([user_data(uid="mine2"), in_pieces(*HALVES)[1]], LARGE, "0 characters"),
    "nothing without end": ([in_pieces(*HALVES)[0], *[EMPTY] * 9], BAD, "an empty piece"),
    "a terabyte": (in_pieces(chunk(shape=(1 << 37,)), last=True), LARGE, "beyond the bytes"),
}
DATA_CASES = [
    *(("SendData", [user_data(**changes)], *rest) for changes, *rest in KEYS.values()),
    *(("SendData", [user_data(uid="mine2"), user_data(examples)], *rest) for examples, *rest in BUNDLES.values()),
    *(("SendData", *case) for case in PIECES.values()),
    ("SendData", [dpb.UserData()], LARGE, "0 characters"),
    *(("GetUserData", [data_key(**changes)], *rest) for changes, *rest in KEYS.values()),
    ("GetUserData", [data_key(date=NEXT)], NONE, "uid 'mine1' has no train data on '20200102'"),
    ("GetUserData", [data_key(uid=UNKNOWN)], NONE, "has no train data"),
    ("ClearUserData", [dpb.DataSet(date="../../x", split="train")], BAD, "date '../../x'"),
    ("ClearUserData", [dpb.DataSet(date=DAY, split="x")], BAD, "split 'x'"),
    ("ClearUserData", [dpb.DataSet()], BAD, "split ''"),
    ("GetUserParams", [params_key(UNKNOWN)], NONE, "unknown uid 'mine-unknown'"),
    ("GetUserParams", [params_key(OTHERS)], STATE, "another data server"),
    ("GetUserParams", [params_key(LONG)], LARGE, "2000 characters"),
    ("GetUserParams", [params_key(step=2**64 - 1)], BAD, "round 18446744073709551615 of the run"),
    ("UpdateUserParams", [], BAD, "names no uid"),
    ("UpdateUserParams", [dpb.UserParams(chunk=chunk())], BAD, "names no uid"),
    ("UpdateUserParams", own_params(uid=UNKNOWN), NONE, "unknown uid"),
    ("UpdateUserParams", own_params(uid=OTHERS), STATE, "another data server"),
    ("UpdateUserParams", own_params(step=2**63), BAD, "round 9223372036854775808 of the run"),
    ("UpdateUserParams", own_params(step=2), STATE, "private parameters of round 2 of the run came, those of round 3"),
    ("UpdateUserParams", own_params(tensors(bias=np.zeros(2))), BAD, "'bias' is float64[2], expected float32[2]"),
    ("UpdateUserParams", own_params(tensors(bias=np.zeros(3, np.float32))), BAD, "float32[3]"),
    ("UpdateUserParams", own_params(tensors(bias=np.array([NAN, 0], np.float32))), BAD, "'bias' holds NaN or infinity"),
    ("UpdateUserParams", own_params(tensors(bias=np.array([-INF, 0], np.float32))), BAD, "NaN or infinity"),
    ("UpdateUserParams", own_params(tensors(w=np.zeros(2))), BAD, "unknown tensor 'w'; known are bias"),
    ("UpdateUserParams", own_params([*tensors(**OWN), *tensors(**OWN)]), BAD, "came twice"),
    ("UpdateUserParams", own_params([chunk("bias", "float32", data=bytes(4))]), BAD, "ended at byte 4 of 8"),
    ("UpdateUserParams", own_params([chunk("bias", "float32", data=bytes(12))]), BAD, "its shape holds 8"),
    ("UpdateUserParams", [*own_params(), *own_params()], BAD, "only the first message names a uid"),
    ("RestoreUserParams", [], BAD, "an empty stream"),
    ("RestoreUserParams", [stored()], STATE, "came after the first day was loaded"),
    ("SetPrivateStart", tensors(**OWN), STATE, "came after the first day was loaded"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "messages", "status", "text"), DATA_CASES,
    ids=[f"{number}-{case[0]}" for number, case in enumerate(DATA_CASES)],
)  # fmt: skip
def test_the_data_server_refuses_and_keeps_what_it_has(data, method, messages, status, text):
    before = data.contents()
    with raw_channel(data.address) as channel:
        got = refusal(channel, DATA, method, messages)
    assert (got[0], text in got[1]) == (status, True), got
    assert data.contents() == before
    assert data.crashes == []


@pytest.mark.parametrize("method", [m.name for m in DATA.methods])
def test_the_data_server_refuses_what_is_no_message(data, method):
    before = data.contents()
    with raw_channel(data.address) as channel:
        for bad in (b"\xff\xff\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\x05ab"):
            status, text = refusal(channel, DATA, method, [bad])
            assert (status, f"{method}: a message cannot be decoded" in text) == (BAD, True), text
        assert refusal(channel, DATA, method, [bytes(65 * MIB)])[0] == LARGE
        if method not in ("SendData", "SetPrivateStart"):
            assert refusal(channel, DATA, method, [])[0] == BAD
    assert data.contents() == before


def test_garbage_after_good_messages_does_not_let_them_through(data):
    before = data.contents()
    with raw_channel(data.address) as channel:
        assert refusal(channel, DATA, "UpdateUserParams", [*own_params(), b"\xff"])[0] == BAD
    assert data.contents() == before


def test_garbage_after_good_examples_is_refused(data):
    """A message that is no message keeps out those before it, as a wrong one does."""
    before = data.contents()
    with raw_channel(data.address) as channel:
        assert refusal(channel, DATA, "SendData", [user_data(uid="mine2"), b"\xff"])[0] == BAD
    assert data.contents() == before


def test_every_method_of_the_data_server_is_tried():
    assert {case[0] for case in DATA_CASES} == {method.name for method in DATA.methods}


def test_registering_twice_at_once_lets_one_in():
    run = Run(PLAN)
    try:
        first, second = (background(run.clients[0].register, info(1)) for _ in range(2))
        loser = next(iter(_finished([first, second])))
        with pytest.raises(Exception, match="rank 1 has already joined"):
            loser.result()
        assert soon(run.clients[1].register, info(2)).days
    finally:
        run.close()
