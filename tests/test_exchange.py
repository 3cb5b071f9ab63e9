"""Simulators that add up their sums among themselves: the same bits, whoever exchanges with whom."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from doors import GATE, Socket, keys
from hostile import PEER, LiveData, raw_channel, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from running import TINY, assert_same_record, run
from scheduler_run import weights_of
from test_state_round_state import frozen
from tiny_task import make_data

from protos.channel import Caller, make_server
from protos.codec import TensorSpec
from protos.errors import AlreadyDone, BadInput, NotFound, PeerLost, RunEnded, WrongState
from protos.stubs import peer_server_pb2, peer_server_pb2_grpc, scheduler_server_pb2, tensor_pb2
from scheduler.rules.exact_sum import Sums
from scheduler.rules.metrics import UserResult
from scheduler.rules.samplers import AllTestSampler, FixedSampler, Round
from scheduler.rules.server_optimizers import FedAvg
from scheduler.state.partition import Partition, make_group
from scheduler.state.plan import DayPlan, Plan
from scheduler.state.read_users import ReadUsers
from scheduler.state.round_state import RoundState
from scheduler.state.rounds import Rules, Share, Timings
from simulator.exchange.peer_group import PeerGroup
from simulator.exchange.peer_server import PeerServicer
from simulator.exchange.peer_sums import PeerSums

pytestmark = pytest.mark.usefixtures("forks")

SPECS = {"w": TensorSpec("float32", (3, 2)), "none": TensorSpec("float32", (0, 4)), "b": TensorSpec("float32", ())}
DAY = "20200101"
TIMEOUT = 30.0


def at(step):
    return Round(0, DAY, step + 1, step)


def share(*sizes):
    return Share((), (), 0, sum(sizes), sizes)


# -- parts -----------------------------------------------------------------------


def test_parts_are_cut_by_hand_computed_bounds():
    parts = Partition(SPECS, (1, 4))
    # Seven numbers: three for the first, four for the second.
    assert parts.specs(1) == {"w": TensorSpec("float32", (3,))}
    assert parts.specs(4, "int64") == {"w": TensorSpec("int64", (3,)), "b": TensorSpec("int64", (1,))}
    w = np.arange(6).reshape(3, 2)
    views = parts.views({"w": w, "none": np.empty((0, 4)), "b": np.array(6)}, 4)
    assert views["w"].tolist() == [3, 4, 5]
    assert views["b"].tolist() == [6]
    views["w"][0] = 9
    assert w[1, 1] == 9


@given(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=6), st.integers(1, 12))
@settings(deadline=None)
def test_parts_hold_every_element_once_and_are_even(shapes, members):
    specs = {str(i): TensorSpec("float64", tuple(shape)) for i, shape in enumerate(shapes)}
    parts = Partition(specs, range(members))
    seen = {name: np.zeros(spec.shape, int) for name, spec in specs.items()}
    sizes = []
    for rank in range(members):
        views = parts.views(seen, rank)
        assert {name: view.shape for name, view in views.items()} == {n: s.shape for n, s in parts.specs(rank).items()}
        for view in views.values():
            assert view.size
            view += 1
        sizes.append(sum(view.size for view in views.values()))
    assert all((value == 1).all() for value in seen.values())
    assert max(sizes) - min(sizes) <= 1


def test_simulators_exchange_where_it_pays():
    assert make_group((3, 1, 2), 2_000_000, "auto") == (1, 2, 3)
    assert make_group((1, 2, 3), 1000, "auto") == ()
    assert make_group((1, 2), 10**9, "auto") == ()
    assert make_group((1, 2, 3), 10**9, "never") == ()
    assert make_group((2,), 1, "always") == (2,)
    assert make_group((), 10**9, "auto") == make_group((), 1, "always") == ()


# -- simulators without a run ------------------------------------------------------


class Simulator:
    """What a simulator has of the exchange, with a server of its own."""

    def __init__(self, rank, group, specs):
        self.rank, self.parts = rank, Partition(specs, group)
        self.params = {name: np.zeros(spec.shape, np.float32) for name, spec in specs.items()}
        self.peer_sums = PeerSums(rank, self.parts, self.params, 0)
        self.crashes = []
        servicer = PeerServicer(0)
        servicer.meet(self.peer_sums)
        self._socket = Socket()
        self._server, self.address = make_server(
            lambda server: peer_server_pb2_grpc.add_PeerServerServicer_to_server(servicer, server),
            self._socket.address, 16, GATE, on_crash=self.crashes.append,
        )  # fmt: skip

    def connect(self, addresses):
        self.group = PeerGroup(keys(self.rank), addresses, self.parts, self.peer_sums)

    def close(self):
        self.group.close()
        self._server.stop(None)
        self._socket.close()


@pytest.fixture
def make_simulators():
    made = []

    def make(*ranks, specs=SPECS):
        new = [Simulator(rank, ranks, specs) for rank in ranks]
        for each in new:
            each.connect({other.rank: other.address for other in new})
        made.extend(new)
        return new

    yield make
    for each in made:
        each.close()
        assert each.crashes == []


def together(simulators, do):
    """Has all simulators do their part at once; returns what each returns."""
    with ThreadPoolExecutor(len(simulators)) as threads:
        return [task.result(TIMEOUT) for task in [threads.submit(do, each) for each in simulators]]


def sums_of(rank, step):
    rng = np.random.default_rng([rank, step])
    return {name: rng.integers(-(2**40), 2**40, spec.shape) for name, spec in SPECS.items()}


def test_sums_and_parameters_come_round(make_simulators):
    simulators = make_simulators(1, 2, 4)
    for step, sizes in enumerate([(1, 2, 3), (1, 0, 2), (0, 0, 0), (0, 0, 5)]):
        given_ = {s.rank: sums_of(s.rank, step) if size else {} for s, size in zip(simulators, sizes, strict=True)}

        def play(simulator, step=step, sizes=sizes, given_=given_):
            simulator.group.open(at(step), share(*sizes))
            total, waited = simulator.group.add_up(at(step), given_[simulator.rank])
            assert waited >= 0
            return total

        totals = together(simulators, play)
        brought = [sums for sums in given_.values() if sums]
        whole = {name: sum((sums[name] for sums in brought), np.zeros(s.shape, int)) for name, s in SPECS.items()}
        for simulator, total in zip(simulators, totals, strict=True):
            expected = simulator.parts.views(whole, simulator.rank) if any(sizes) else {}
            assert {n: v.tolist() for n, v in total.items()} == {n: v.tolist() for n, v in expected.items()}

        new = {name: np.full(spec.shape, step + 1.5, np.float32) for name, spec in SPECS.items()}

        def pull(simulator, step=step, new=new):
            def own(into):
                for name, value in simulator.parts.views(new, simulator.rank).items():
                    into[name][...] = value

            simulator.group.share_params(step + 1, simulator.params, own)

        if step == 0:
            together(simulators, lambda s: s.group.share_params(0, s.params, lambda into: None))
        together(simulators, pull)
        for simulator in simulators:
            assert all((simulator.params[name] == value).all() for name, value in new.items())


def test_more_simulators_than_numbers(make_simulators):
    specs = {"w": TensorSpec("float32", (2,))}
    simulators = make_simulators(1, 2, 3, 4, specs=specs)

    def play(simulator):
        simulator.group.share_params(0, simulator.params, lambda into: [v.fill(7) for v in into.values()])
        simulator.group.open(at(0), share(1, 1, 1, 1))
        return simulator.group.add_up(at(0), {"w": np.array([1, 10]) * simulator.rank})[0]

    totals = together(simulators, play)
    assert [list(map(int, t.get("w", []))) for t in totals] == [[], [10], [], [100]]
    assert all(s.params["w"].tolist() == [7, 7] for s in simulators)


def test_a_simulator_that_is_late_is_waited_for(make_simulators):
    first, second = make_simulators(1, 2)
    opened = threading.Event()
    sums = sums_of(2, 0)

    def late():
        # It has nothing to bring; the other's sums are on their way before it has opened the round.
        opened.wait(TIMEOUT)
        second.group.open(at(0), share(1, 0))
        return second.group.add_up(at(0), {})

    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(late)
        first.group.open(at(0), share(1, 0))
        done = threads.submit(first.group.add_up, at(0), sums)
        with pytest.raises(TimeoutError):
            done.result(0.2)
        opened.set()
        assert done.result(TIMEOUT)[0]["w"].tolist() == sums["w"].reshape(-1)[:3].tolist()
        assert waiting.result(TIMEOUT)[0]["w"].tolist() == sums["w"].reshape(-1)[3:].tolist()


def part(simulator, value=0):
    return {n: np.full(s.shape, value, np.int64) for n, s in simulator.parts.specs(simulator.rank).items()}


def test_sums_that_cannot_be_right_are_refused_and_change_nothing(make_simulators):
    first, _, _ = make_simulators(1, 2, 3)
    peer_sums = first.peer_sums

    def bring(rank, round_, sums):
        with peer_sums.contributing(rank, round_) as take:
            take(sums)

    for step in (1, 2**40):
        with pytest.raises(WrongState, match="0 is due"):
            bring(2, at(step), part(first))
    first.group.open(at(0), share(1, 1, 0))
    for rank in (0, 1, 9):
        with pytest.raises(NotFound, match="no other simulator"):
            bring(rank, at(0), part(first))
    with pytest.raises(WrongState, match="is due"):
        bring(2, Round(0, "20200102", 1, 0), part(first))
    with pytest.raises(WrongState, match="no users"):
        bring(3, at(0), part(first))
    with pytest.raises(BadInput, match="beyond"):
        bring(2, at(0), part(first, 2**62))
    with peer_sums.contributing(2, at(0)), pytest.raises(AlreadyDone, match="under way"):
        bring(2, at(0), part(first))
    bring(2, at(0), part(first, 5))
    with pytest.raises(AlreadyDone, match="already brought"):
        bring(2, at(0), part(first, 7))
    assert peer_sums.take(part(first, 1))["w"].tolist() == [6, 6]
    with pytest.raises(WrongState, match="1 is due"):
        bring(2, at(0), part(first))


def test_parameters_that_are_not_due_are_refused(make_simulators):
    first, _ = make_simulators(1, 2)
    with pytest.raises(WrongState, match="0 is due"):
        first.peer_sums.params(2, 1)
    first.peer_sums.show_params(0)
    assert first.peer_sums.params(2, 0).keys() == {"w"}
    with pytest.raises(WrongState, match="1 is due"):
        first.peer_sums.params(2, 5)
    with pytest.raises(NotFound, match="no other simulator"):
        first.peer_sums.params(1, 0)


@pytest.mark.parametrize("waiting", ["sums", "params"])
def test_the_end_of_the_run_ends_the_waiting(make_simulators, waiting):
    first, second = make_simulators(1, 2)

    def wait():
        if waiting == "sums":
            # The other never opens the round.
            first.group.open(at(0), share(1, 1))
            first.group.add_up(at(0), sums_of(1, 0))
        else:
            first.group.share_params(0, first.params, lambda into: None)

    with ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(wait)
        with pytest.raises(TimeoutError):
            stuck.result(0.2)
        first.group.fail(RunEnded("rank 2 is gone"))
        with pytest.raises(RunEnded, match="rank 2 is gone"):
            stuck.result(TIMEOUT)
    second.peer_sums.fail(RunEnded("rank 2 is gone"))


def test_a_simulator_that_is_gone_is_named(make_simulators):
    first, second = make_simulators(1, 2)
    second._server.stop(None).wait()
    first.group.open(at(0), share(1, 1))
    with pytest.raises(PeerLost, match="simulator of rank 2"):
        first.group.add_up(at(0), sums_of(1, 0))


def test_a_simulator_without_a_group_refuses(tmp_path):
    servicer = PeerServicer(0)
    server, address = make_server(
        lambda made: peer_server_pb2_grpc.add_PeerServerServicer_to_server(servicer, made),
        f"unix:{tmp_path}/socket", 4, GATE,
    )  # fmt: skip
    try:
        caller = Caller(address, "the simulator", 2, keys(1))
        stub = peer_server_pb2_grpc.PeerServerStub(caller.channel)
        with pytest.raises(WrongState, match="scheduler alone"):
            list(caller.stream(stub.GetPart, peer_server_pb2.PartRequest(rank=1, step=0)))
        caller.close()
    finally:
        server.stop(None)


# -- runs --------------------------------------------------------------------------

RUN = ["--rounds", 3, "--sample-num", 5, "--eval-every", 2, "--seed", 7, "--lr", 0.3, "--shuffle",
       "--private", "norm.*", "--shards", 1]  # fmt: skip


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    data = make_data(tmp_path_factory.mktemp("data"), days=("20200101", "20200102", "20200103"))
    output = tmp_path_factory.mktemp("reference")
    run(TINY, data, *RUN, "--output", output)
    return data, output


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_exchanging_changes_no_bit(reference, tmp_path, ranks):
    data, expected = reference
    run(TINY, data, *RUN, "--no-shared-memory", "--exchange", "always", "--output", tmp_path, ranks=ranks)
    assert_same_record(tmp_path, expected)


@pytest.mark.slow
def test_some_exchange_and_some_share_memory(reference, tmp_path):
    data, expected = reference
    job = [data, *RUN, "--exchange", "always", "--output", tmp_path]
    memory, streams = ([sys.executable, TINY, *job, flag] for flag in ("--shared-memory", "--no-shared-memory"))
    # Ranks 2 and 4 stream, rank 1 and 3 read the scheduler's memory.
    before = ["mpirun", "-np", 2, *memory, ":", "-np", 1, *streams, ":", "-np", 1, *memory, ":", "-np", 1]
    run(TINY, *job, "--no-shared-memory", mpirun=list(map(str, before)))
    assert_same_record(tmp_path, expected)


@pytest.mark.slow
def test_the_same_users_in_turn_do_not_need_the_exchange(reference, tmp_path):
    data, _ = reference
    job = [*RUN, "--mode", "centralized"]
    run(TINY, data, *job, "--output", tmp_path / "one")
    run(TINY, data, *job, "--no-shared-memory", "--exchange", "always", "--output", tmp_path / "three", ranks=3)
    assert_same_record(tmp_path / "three", tmp_path / "one")


# -- the scheduler's side, by hand -------------------------------------------------


def make_state(exchange="always"):
    plan = FixedSampler([["a", "b"], ["a", "b"]])
    rules = Rules(0, plan, AllTestSampler(), FedAvg(1.0), exchange=exchange, rounds=2)
    state = RoundState(rules, {1: 1, 2: 1, 3: 1}, Plan((DayPlan(DAY, None),), 2))
    state.model.set_initial({"w": np.array([1, 2, 3, 4], np.float32)}, [])
    return state


def tell_users(state):
    for rank in (1, 2, 3):
        counts = {"a": 1, "b": 1} if rank == 1 else {}
        state.add_users(rank, DAY, "train", ReadUsers(counts, weights_of(counts)))


def push(state, rank, step, *sums):
    uids = state.train_shares(rank, at(step))[step].uids
    results = [UserResult(uid, 1, 1.0, {}) for uid in uids]
    # Two users: an exponent of 1, so that a delta of 1 is 2**47.
    return state.push(rank, at(step), results, Timings(), [Sums.whole({"w": np.array(s) << 47}) for s in sums])


def test_the_scheduler_takes_parts_of_a_group_and_whole_sums_of_the_others():
    state = make_state()
    assert state.form_group([1, 3]) == (1, 3)
    tell_users(state)
    assert [state.train_shares(rank, at(0))[0].sizes for rank in (1, 2, 3)] == [(1, 0)] * 3
    assert [state.part(rank)["w"].tolist() for rank in (1, 3)] == [[1, 2], [3, 4]]
    with pytest.raises(WrongState, match="rank 2 has no part"):
        state.part(2)
    for step in (0, 1):
        # Rank 3 has no users, but its part of what rank 1 has brought it.
        assert push(state, 1, step, [2, 4]) is None
        with pytest.raises(BadInput, match="rank 3 pushed 0 users but 0 sums"):
            push(state, 3, step)
        assert push(state, 3, step, [6, 8]) is None
        assert push(state, 2, step, [0, 2, 0, 2]).at == at(step)
    # Each round adds (2, 4 + 2, 6, 8 + 2) / 2.
    assert state.model.params["w"].tolist() == [1 + 2, 2 + 6, 3 + 6, 4 + 10]


def test_a_group_without_users_in_a_round_pushes_nothing():
    state = make_state()
    assert state.form_group([3]) == (3,)
    tell_users(state)
    for step in (0, 1):
        assert state.train_shares(3, at(step))[step].sizes == (0,)
        assert state.push_specs(3, at(step)) == {}
        assert push(state, 3, step) is None
        assert push(state, 1, step, [2, 2, 2, 2]) is None
        push(state, 2, step, [0, 0, 0, 2])
    assert state.model.params["w"].tolist() == [1 + 2, 2 + 2, 3 + 2, 4 + 4]


def test_the_scheduler_holds_a_group_to_its_parts():
    state = make_state()
    state.form_group([1, 3])
    tell_users(state)
    state.train_shares(1, at(0))
    assert state.push_specs(3, at(0)) == {"w": TensorSpec("int64", (2,))}
    assert state.push_specs(2, at(0)) == {"w": TensorSpec("int64", (4,))}
    with pytest.raises(BadInput, match="beyond"):
        push(state, 3, 0, [0, 2**15])
    own = Sums({"w": np.zeros(4, np.int64)}, {"w": np.ones(4, np.bool_)})
    with pytest.raises(BadInput, match="those of its group"):
        state.push(3, at(0), [], Timings(), [own])


def test_a_group_is_formed_before_anything_else_and_only_for_federated_rounds():
    assert make_state("never").form_group([1, 3]) == ()
    assert make_state("auto").form_group([1, 2, 3]) == ()
    state = make_state()
    tell_users(state)
    with pytest.raises(WrongState, match="before any day"):
        state.form_group([1, 3])


# -- hostile messages --------------------------------------------------------------

BAD, STATE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
NONE, LARGE = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED


def key(rank=2, date=DAY, number=1, step=0):
    return scheduler_server_pb2.RoundKey(rank=rank, date=date, round=number, step=step)


def bring(values=(1, 2), name="w", dtype="int64", **changes):
    chunk = tensor_pb2.TensorChunk(name=name, dtype=dtype, shape=[len(values)], data=np.array(values, dtype).tobytes())
    return peer_server_pb2.PartSums(key=key(**changes), chunk=chunk)


CASES = [
    ("AddSums", [], BAD, "names no round"),
    ("AddSums", [peer_server_pb2.PartSums(chunk=bring().chunk)], BAD, "names no round"),
    ("AddSums", [peer_server_pb2.PartSums(key=key())], LARGE, "0 characters"),
    ("AddSums", [bring(rank=9)], NONE, "rank 9"),
    ("AddSums", [bring(rank=1)], NONE, "rank 1"),
    ("AddSums", [bring(rank=2**32 - 1)], grpc.StatusCode.PERMISSION_DENIED, "rank 1 spoke for rank 4294967295"),
    ("AddSums", [bring(step=1)], STATE, "0 is due"),
    ("AddSums", [bring(step=2**64 - 1)], STATE, "0 is due"),
    ("AddSums", [bring(date="20200102")], STATE, "is due"),
    ("AddSums", [bring(date="../../x")], BAD, "'../../x'"),
    ("AddSums", [bring(number=2)], STATE, "is due"),
    ("AddSums", [bring((1, 2, 3))], BAD, "int64[3], expected int64[2]"),
    ("AddSums", [bring(dtype="float64")], BAD, "expected int64[2]"),
    ("AddSums", [bring(name="v")], BAD, "unknown tensor 'v'"),
    ("AddSums", [bring((2**62, 0))], BAD, "beyond"),
    ("AddSums", [bring((-(2**63), 0))], BAD, "beyond"),
    ("AddSums", [bring(), bring()], BAD, "came twice"),
    ("AddSums", [bring(), b"\xff"], BAD, "cannot be decoded"),
    ("AddSums", [b"\xff"], BAD, "cannot be decoded"),
    ("AddSums", [bytes(65 << 20)], LARGE, ""),
    ("GetPart", [], BAD, "no message"),
    ("GetPart", [b"\xff"], BAD, "cannot be decoded"),
    ("GetPart", [peer_server_pb2.PartRequest(rank=9, step=0)], NONE, "rank 9"),
    ("GetPart", [peer_server_pb2.PartRequest(rank=2, step=1)], STATE, "0 is due"),
    ("GetPart", [peer_server_pb2.PartRequest(rank=2, step=2**64 - 1)], STATE, "0 is due"),
]


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    """A simulator in its first round, which it and rank 2 have users in."""
    specs = {"w": TensorSpec("float32", (4,))}
    peer_sums = PeerSums(1, Partition(specs, (1, 2)), {"w": np.zeros(4, np.float32)}, 0)
    peer_sums.open(at(0), share(1, 1))
    live = LiveData(tmp_path_factory.mktemp("met") / "store", {}, peer_sums)
    yield live, peer_sums
    live.close()


@pytest.mark.parametrize(
    ("method", "messages", "status", "text"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)]
)
def test_a_simulator_refuses_and_keeps_its_state(met, method, messages, status, text):
    live, peer_sums = met
    before = frozen(vars(peer_sums))
    with raw_channel(live.address) as channel:
        got = refusal(channel, PEER, method, messages)
    assert (got[0], text in got[1]) == (status, True), got
    assert frozen(vars(peer_sums)) == before


def test_every_method_between_simulators_is_tried():
    assert {case[0] for case in CASES} == {method.name for method in PEER.methods}
