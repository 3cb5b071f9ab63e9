"""The scheduler over real gRPC, with two clients in threads."""

import dataclasses
import os
from queue import Queue

import numpy as np
import pytest
from scheduler_run import NOTHING, WAIT, Run, background, info, soon
from test_state_round_state import COUNTS, DAY, NEXT, NO_TIME, PLAN, at, grid, result

from protos.channel import MAX_MESSAGE_BYTES
from protos.codec import CHUNK_BYTES, TensorSpec
from protos.errors import Forbidden, NotFound, WrongState
from protos.shared_arrays import SharedArrays, unnamed_file
from scheduler.rules.exact_sum import ExactSum, Sums, sum_specs
from scheduler.rules.metrics import UserResult
from scheduler.rules.streams import owner_of
from scheduler.service.messages import BATCH
from scheduler.state.plan import DayPlan, Plan
from scheduler.state.rounds import Share, Timings

W = {"w": TensorSpec("float32", (2,))}


@pytest.fixture
def run():
    made = Run(PLAN)
    yield made
    made.close()


@pytest.fixture
def ready(run):
    return run.make_ready({"w": np.array([1.0, 2.0], np.float32)}, ["mine"], COUNTS, DAY)


# -- joining and leaving -----------------------------------------------------------


def test_joining_tells_everybody_who_takes_part(run):
    for layout in run.join():
        assert layout.simulators == (info(1), info(2))
        assert layout.days == ("20200101", "20200102", "20200103")
    assert [layout.simulators for layout in run.heard.layouts] == [(info(1), info(2))]


def test_exchange_hands_everybody_all_bytes_by_rank(run):
    run.join()
    expected = {1: b"", 2: b"from 2"}
    assert run.both(lambda client, rank: client.exchange("key", expected[rank])) == [expected, expected]
    # The key is free again afterwards.
    assert run.both(lambda client, rank: client.exchange("key", b"x")) == [{1: b"x", 2: b"x"}] * 2


def test_exchange_carries_what_is_larger_than_a_chunk(run):
    run.join()
    payload = np.random.default_rng(0).bytes(3 * CHUNK_BYTES)
    assert run.both(lambda client, rank: client.exchange("key", payload)) == [{1: payload, 2: payload}] * 2


def test_the_watch_ends_without_an_error_when_all_have_left(run):
    run.plan = NOTHING
    run.join()
    ends = Queue()
    for client in run.clients:
        soon(client.watch, ends.put)
    done = background(run.coordinator.wait_finished)
    run.both(lambda client, rank: client.exit())
    assert [ends.get(timeout=WAIT), ends.get(timeout=WAIT)] == [None, None]
    assert done.result(WAIT) is None


# -- users in several pieces -------------------------------------------------------


def test_a_round_waits_until_all_users_are_weighed(run):
    """Every user comes in two pieces, more of them than a message holds; each simulator weighs those it keeps."""
    run.join()
    soon(run.clients[0].update_global_params, {"w": np.zeros(2, np.float32)}, [])
    counts = {**COUNTS, **{f"u{i}": 1 for i in range(3 * BATCH)}}
    pieces = {uid: float(count) for uid, count in counts.items()}
    asked = run.both(lambda client, rank: client.update_user_inst_num(DAY, "train", counts, pieces))
    assert sorted(asked[0] + asked[1]) == sorted(counts)
    assert min(map(len, asked)) > BATCH
    assert all(owner_of(uid, (1, 2)) == rank for rank, uids in zip((1, 2), asked, strict=True) for uid in uids)
    early = background(run.clients[0].sample_user_list, at())
    for client, uids in zip(run.clients, asked, strict=True):
        assert not early.done()
        soon(client.update_user_weights, DAY, {uid: counts[uid] / 4 for uid in uids})
        with pytest.raises(WrongState, match="has no weights of 20200101 to tell"):
            soon(client.update_user_weights, DAY, dict.fromkeys(uids, 1.0))
    # Both pieces count: 4 + 4 examples of a, of weight 1; the whole cohort weighs 2.
    assert early.result(WAIT) == Share(("a",), (8,), 1, 3, weights=(1.0,))


# -- a round -----------------------------------------------------------------------


def test_a_whole_round(ready):
    """The round of test_round_state.test_a_round_of_two_simulators_by_hand: [1, 2] becomes [1.5, 3.5]."""
    one, two = ready.clients
    assert ready.both(lambda client, _: client.fixed_sample_user_list(at())) == [
        Share(("a",), (4,), 3, 3, weights=(4.0,)),
        Share(("b", "c"), (2, 2), 3, 3, weights=(2.0, 2.0)),
    ]
    assert soon(one.get_global_params, 0)["w"].tolist() == [1.0, 2.0]
    later = background(one.get_global_params, 1)  # waits for the round
    times = Timings(0.5, 1.0, 0.25, 0.0)
    background(one.fedavg_update, at(), [result("a", loss=(8.0, 4.0))], lambda: times, grid(4, 0))
    assert not ready.heard.records
    soon(two.fedavg_update, at(), [result("b"), result("c", top1=(1.0, 2.0))], lambda: NO_TIME, grid(-2, 6))
    assert later.result(WAIT)["w"].tolist() == [1.5, 3.5]

    (record,) = ready.heard.told(1)
    assert (record.phase, record.at) == ("train", at())
    assert [r.uid for r in record.results] == list(PLAN[0])
    assert record.results[1] == UserResult("a", 4, 4.0, {"loss": (8.0, 4.0)})
    assert record.results[2].metrics == {"top1": (1.0, 2.0)}
    assert (record.timings.pull, record.timings.train) == (0.25, 0.5)
    assert soon(two.sample_user_list, at(2, 1)).uids == ("b",)
    with pytest.raises(WrongState, match="before round 0 are gone: round 1 is due"):
        soon(two.get_global_params, 0)


@pytest.fixture
def memory():
    """A shard's sums, in memory that may be handed over."""
    fd = unnamed_file("test")
    yield SharedArrays(fd, sum_specs(W), create=True)
    os.close(fd)


def test_a_round_handed_over_in_memory(ready, memory):
    """The same round: rank 1 tells where its sums are, rank 2 streams them; both see the new parameters."""
    one, two = ready.clients
    ready.both(lambda client, _: client.sample_user_list(at()))
    params = SharedArrays.open(soon(one.shared_memory), W)
    assert params["w"].tolist() == [1.0, 2.0]
    exact = ExactSum(Sums.of(memory.arrays, W), 3, 3)
    exact.take("w", params["w"] + np.array([1.0, 0.0], np.float32), params["w"], 4.0, "a")
    # Answered when the step is made, for which the other push is needed.
    pushed = background(one.fedavg_update_in_memory, at(), [result("a")], NO_TIME, [memory.handle()])
    soon(two.fedavg_update, at(), [result("b"), result("c")], lambda: NO_TIME, grid(-2, 6))
    pushed.result(WAIT)
    assert params["w"].tolist() == soon(two.get_global_params, 1)["w"].tolist() == [1.5, 3.5]


def test_memory_that_is_not_what_was_told_is_refused_and_the_round_goes_on(ready, memory):
    one, two = ready.clients
    ready.both(lambda client, _: client.sample_user_list(at()))
    for wrong in ({"token": bytes(16)}, {"machine": "another"}, {"fd": 1_000_000}):
        handle = dataclasses.replace(memory.handle(), **wrong)
        with pytest.raises(NotFound):
            soon(one.fedavg_update_in_memory, at(), [result("a")], NO_TIME, [handle])
    background(one.fedavg_update, at(), [result("a")], lambda: NO_TIME, grid(4, 0))
    soon(two.fedavg_update, at(), [result("b"), result("c")], lambda: NO_TIME, grid(-2, 6))
    assert soon(two.get_global_params, 1)["w"].tolist() == [1.5, 3.5]


def test_a_round_without_federation():
    run = Run(PLAN, federated=False)
    try:
        run.join()
        soon(run.clients[0].update_global_params, {"w": np.zeros(2, np.float32)}, [])
        run.tell_users(COUNTS, DAY, "train")
        assert [s.uids for s in run.both(lambda client, _: client.sample_user_list(at()))] == [PLAN[0], ()]
        new, results = {"w": np.array([3.0, 4.0], np.float32)}, [result(uid) for uid in PLAN[0]]
        soon(run.clients[0].replace_global_params, at(), results, lambda: NO_TIME, new)
        assert soon(run.clients[1].get_global_params, 1)["w"].tolist() == [3.0, 4.0]
        assert len(run.heard.told(1)) == 1
    finally:
        run.close()


@pytest.mark.parametrize("together", [0, 50])
def test_an_evaluation_of_more_users_than_a_message_holds(ready, together):
    ready.coordinator._live.state.plan = Plan((DayPlan(DAY, NEXT),), 2, asked=frozenset([0]))
    counts = {f"u{i:05d}": 1 + i % 3 for i in range(2 * BATCH + 3)}
    ready.tell_users(counts, NEXT, "test")
    when = at(0, 0, NEXT)
    shares = ready.both(lambda client, _: client.test_sample_user_list(when, together))
    assert {u: n for s in shares for u, n in zip(s.uids, s.counts, strict=True)} == counts
    assert all(sum(s.groups) == (len(s.uids) if together else 0) for s in shares)

    def evaluate(client, rank):
        uids = shares[rank - 1].uids
        return client.update_test_metrics(
            when, [UserResult(u, counts[u], 0.0, {"top1": (0.5, 1.0)}) for u in uids], NO_TIME
        )

    assert ready.both(evaluate) == [(10_003, {"top1": (5001.5, 10_003.0)})] * 2
    assert [r.uid for r in ready.heard.told(1)[0].results] == sorted(counts)


# -- tensors -----------------------------------------------------------------------


def test_tensors_of_several_chunks_arrive_bit_for_bit(run):
    run.join()
    rng = np.random.default_rng(0)
    sent = {
        "big": rng.normal(size=(3, CHUNK_BYTES // 4 + 1)).astype(np.float32),
        "scalar": np.array(0.1),
        "empty": np.empty((0, 4), np.float32),
        "half": rng.normal(size=7).astype(np.float16),
    }
    getting = background(run.clients[1].get_global_params, 0)  # before they are made
    soon(run.clients[0].update_global_params, sent, [])
    into = {"big": np.zeros_like(sent["big"])}
    for got in (getting.result(WAIT), soon(run.clients[0].get_global_params, 0, into)):
        assert list(got) == list(sent)
        assert all((got[n].dtype, got[n].shape) == (sent[n].dtype, sent[n].shape) for n in sent)
        assert all(got[n].tobytes() == sent[n].tobytes() for n in sent)
    assert got["big"] is into["big"]
    assert list(run.heard.initial[0]) == list(sent)


def test_a_tensor_larger_than_a_message_goes_through(run):
    run.join()
    sent = {"w": np.arange(20_000_000, dtype=np.float32)}
    assert sent["w"].nbytes > MAX_MESSAGE_BYTES
    soon(run.clients[0].update_global_params, sent, [])
    assert np.array_equal(soon(run.clients[1].get_global_params, 0)["w"], sent["w"])


def test_a_private_name_is_forbidden(run):
    run.join()
    params = {"w": np.zeros(2, np.float32), "mine": np.zeros(2, np.float32)}
    with pytest.raises(Forbidden, match="parameter 'mine' is private"):
        soon(run.clients[0].update_global_params, params, ["mine"])
    del params["mine"]
    soon(run.clients[0].update_global_params, params, ["mine"])
    run.tell_users(COUNTS, DAY, "train")
    run.both(lambda client, _: client.sample_user_list(at()))
    with pytest.raises(Forbidden, match="parameter 'mine' is private"):
        soon(run.clients[0].fedavg_update, at(), [result("a")], lambda: NO_TIME, {**grid(4, 0), "mine": np.zeros(2)})
