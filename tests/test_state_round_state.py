"""scheduler/state/round_state.py: rounds played by hand with two simulators, and all that is refused."""

import dataclasses
import math

import numpy as np
import pytest
from scheduler_run import weights_of

from protos.codec import TensorSpec
from protos.errors import AlreadyDone, BadInput, WrongState
from scheduler.rules.exact_sum import Sums
from scheduler.rules.metrics import UserResult
from scheduler.rules.samplers import AllTestSampler, FixedSampler, Round, UniformSampler, UserTable
from scheduler.rules.server_optimizers import FedAvg, FedAvgM, Sum
from scheduler.state.plan import DayPlan, Plan
from scheduler.state.read_users import ReadUsers
from scheduler.state.round_state import RoundState
from scheduler.state.rounds import Rules, Share, Timings

DAY, NEXT = "20200101", "20200102"
COUNTS = {"a": 4, "b": 2, "c": 2, "d": 9}
PLAN = (("b", "a", "c"), ("d", "b"))
NO_TIME = Timings()


class FakeClock:
    now = 0.0

    def __call__(self):
        return self.now


def make_state(*, lanes=None, optimizer=None, federated=True, sampler=None, clock=None, ready=True):
    rules = Rules(
        seed=7,
        sampler=sampler or FixedSampler(PLAN),
        test_sampler=AllTestSampler(),
        optimizer=optimizer or FedAvg(2.0),
        federated=federated,
        rounds=2,
    )
    plan = Plan((DayPlan(DAY, NEXT), DayPlan(NEXT, None)), 2, eval_every=1, asked=frozenset([0]))
    state = RoundState(rules, lanes or {1: 1, 2: 1}, plan, clock or FakeClock())
    if ready:
        state.model.set_initial({"w": np.array([1.0, 2.0], np.float32)}, ["mine"])
        report_users(state)
    return state


def report_users(state, counts=COUNTS, date=DAY, split="train"):
    half = dict(list(counts.items())[::2])
    add_users(state, 1, date, split, half)
    add_users(state, 2, date, split, {uid: n for uid, n in counts.items() if uid not in half})


def add_users(state, rank, date, split, counts, weights=None):
    """A simulator's users with the default weights, of training data only."""
    if weights is None:
        weights = weights_of(counts, split) if state.rules.weighs else {}
    state.add_users(rank, date, split, ReadUsers(dict(counts), weights))


def at(number=1, step=0, date=DAY):
    return Round(7, date, number, step)


def share(state, rank, date, number, step, kind=None):
    return state.train_shares(rank, at(number, step, date), 1, kind)[step]


def result(uid, weight=None, **metrics):
    return UserResult(uid, COUNTS[uid], float(COUNTS[uid]) if weight is None else weight, metrics)


def grid(*values, exponent=3):
    """A simulator's exact sums: weighted deltas on the round's grid."""
    return {"w": np.array([int(v * 2 ** (48 - exponent)) for v in values], np.int64)}


def sums(*values, exponent=3):
    """As the state takes them, one accumulator's."""
    return [Sums.whole(grid(*values, exponent=exponent))]


def frozen(value):
    """A comparable copy of all a state holds; empty containers count as absent."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if dataclasses.is_dataclass(value):
        return frozen(vars(value))
    if isinstance(value, dict):
        parts = [(str(key), frozen(part)) for key, part in value.items()]
        return tuple(sorted((key, part) for key, part in parts if part not in ((), frozenset())))
    if isinstance(value, set | frozenset):
        return frozenset(value)
    if isinstance(value, list | tuple):
        return tuple(frozen(part) for part in value)
    return value if isinstance(value, str | int | float | None) else type(value).__name__


# -- whole rounds ------------------------------------------------------------------


def test_a_round_of_two_simulators_by_hand():
    """Weights 4, 2, 2; deltas a [1, 0], b [0, 2], c [-1, 1]: mean [(4 - 2) / 8, (4 + 2) / 8] = [0.25, 0.75].

    FedAvg with rate 2: [1, 2] + 2 * [0.25, 0.75] = [1.5, 3.5].
    """
    state = make_state()
    # Longest first: a (4) to rank 1, b and c (2 each) to rank 2; 8 examples give exponent 3.
    assert share(state, 1, DAY, 1, 0) == Share(("a",), (4,), 3, 3, weights=(4.0,))
    assert share(state, 2, DAY, 1, 0) == Share(("b", "c"), (2, 2), 3, 3, weights=(2.0, 2.0))
    assert state.push_specs(1, at()) == {"w": TensorSpec("int64", (2,))}
    assert state.push(1, at(), [result("a", loss=(8.0, 4.0))], NO_TIME, sums(4, 0)) is None
    assert (state.step, state.model.params["w"].tolist()) == (0, [1.0, 2.0])

    two = [result("c", loss=(1.0, 2.0)), result("b", loss=(3.0, 2.0))]
    record = state.push(2, at(), two, NO_TIME, sums(-2, 6))
    assert (record.phase, record.at) == ("train", at())
    assert [r.uid for r in record.results] == list(PLAN[0])
    assert [r.metrics["loss"] for r in record.results] == [(3.0, 2.0), (8.0, 4.0), (1.0, 2.0)]
    assert state.step == 1
    assert state.model.params["w"].dtype == np.float32
    assert state.model.params["w"].tolist() == [1.5, 3.5]


def test_the_next_round_starts_from_empty_sums():
    """Second round: only d (9) moves, by [1, -1]; b (2) does not: mean [9/11, -9/11], exponent 4."""
    state = make_state(optimizer=FedAvg(1.0))
    play_first(state)
    assert state.model.params["w"].tolist() == [1.25, 2.75]
    assert share(state, 1, DAY, 2, 1) == Share(("d",), (9,), 4, 2, weights=(9.0,))
    state.push(1, at(2, 1), [result("d")], NO_TIME, sums(9, -9, exponent=4))
    state.push(2, at(2, 1), [result("b")], NO_TIME, sums(0, 0, exponent=4))
    assert state.model.params["w"] == pytest.approx([1.25 + 9 / 11, 2.75 - 9 / 11], rel=1e-7)


def play_first(state):
    share(state, 1, DAY, 1, 0)
    state.push(1, at(), [result("a")], NO_TIME, sums(4, 0))
    return state.push(2, at(), [result("b"), result("c")], NO_TIME, sums(-2, 6))


def test_sum_weighs_every_user_once():
    """3 users of weight 1: exponent 2; deltas sum to [0, 3], rate 0.5: [1, 2] + 0.5 * [0, 3] = [1, 3.5]."""
    state = make_state(optimizer=Sum(0.5))
    assert share(state, 1, DAY, 1, 0).exponent == 2
    state.push(1, at(), [result("a", 1.0)], NO_TIME, sums(1, 0, exponent=2))
    state.push(2, at(), [result("b", 1.0), result("c", 1.0)], NO_TIME, sums(-1, 3, exponent=2))
    assert state.model.params["w"] == pytest.approx([1.0, 3.5])


def test_a_simulator_without_users_pushes_nothing():
    state = make_state(lanes={1: 1, 2: 1, 3: 1, 4: 1}, ready=False)
    state.model.set_initial({"w": np.array([1.0, 2.0], np.float32)}, [])
    for rank in (1, 2, 3, 4):
        add_users(state, rank, DAY, "train", COUNTS if rank == 1 else {})
    shares = {rank: share(state, rank, DAY, 1, 0).uids for rank in (1, 2, 3, 4)}
    assert shares == {1: ("a",), 2: ("b",), 3: ("c",), 4: ()}
    assert state.push(4, at(), [], NO_TIME, []) is None
    for rank, uid in ((1, "a"), (2, "b")):
        assert state.push(rank, at(), [result(uid)], NO_TIME, sums(0, 0)) is None
    assert state.push(3, at(), [result("c")], NO_TIME, sums(8, 0)).at == at()
    assert state.model.params["w"].tolist() == [3.0, 2.0]


def test_users_read_by_two_simulators_are_added_up():
    state = make_state(ready=False)
    add_users(state, 1, NEXT, "test", {"a": 1, "b": 2})
    assert not state.users.ready(NEXT, "test")
    add_users(state, 2, NEXT, "test", {"b": 5})
    assert state.users.ready(NEXT, "test")
    assert not state.users.ready(NEXT, "train")
    assert len(state.users.table(NEXT, "test").uids) == 2
    assert dict(zip(*share_of_test(state), strict=True)) == {"a": 1, "b": 7}


def share_of_test(state):
    shares = [state.test_share(rank, at(0, 0, NEXT)) for rank in (1, 2)]
    return [uid for s in shares for uid in s.uids], [n for s in shares for n in s.counts]


# -- without federation ------------------------------------------------------------


def test_without_federation_one_simulator_has_all_users_in_the_cohorts_order():
    state = make_state(federated=False)
    assert share(state, 1, DAY, 1, 0).uids == PLAN[0]
    assert share(state, 2, DAY, 1, 0).uids == ()
    results = [result(uid) for uid in PLAN[0]]
    record = state.replace(1, at(), results, NO_TIME, {"w": np.array([5.0, 6.0], np.float32)})
    assert [r.uid for r in record.results] == list(PLAN[0])
    assert (state.step, state.model.params["w"].tolist()) == (1, [5.0, 6.0])
    assert share(state, 1, DAY, 2, 1).uids == PLAN[1]


def test_without_federation_what_does_not_fit_changes_nothing():
    state = make_state(federated=False)
    share(state, 1, DAY, 1, 0)
    before, results = frozen(vars(state)), [result(uid) for uid in PLAN[0]]
    params = {"w": np.array([5.0, 6.0], np.float32)}
    with pytest.raises(WrongState, match="without federation: it takes parameters"):
        state.push(1, at(), results, NO_TIME, sums(1, 1))
    with pytest.raises(WrongState, match="rank 2 has no share of date 20200101, round 1"):
        state.replace(2, at(), [], NO_TIME, params)
    with pytest.raises(WrongState, match="users are not those of its share"):
        state.replace(2, at(), results, NO_TIME, params)
    with pytest.raises(BadInput, match="round 1: parameter 'w' holds NaN or infinity"):
        state.replace(1, at(), results, NO_TIME, {"w": np.array([5.0, math.inf], np.float32)})
    assert frozen(vars(state)) == before


# -- where the time went -----------------------------------------------------------


def test_waiting_for_a_slower_simulator_counts_as_wait():
    """Rank 1 (1 shard, weight 1/4) is done at 12, rank 2 (3 shards, 3/4) at 16; the round began at 10.

    pull = 0.5/4 + 1 * 3/4 = 0.875; train = 1/4 + 4 * 3/4 = 3.25; wait = (0 + 4)/4 + 0.5 * 3/4 = 1.375;
    the rest of the 6 seconds is push: 0.5.
    """
    clock = FakeClock()
    state = make_state(lanes={1: 1, 2: 3}, clock=clock)
    clock.now = 10.0
    mine = {rank: share(state, rank, DAY, 1, 0).uids for rank in (1, 2)}
    clock.now = 12.0
    state.push(1, at(), [result(uid) for uid in mine[1]], Timings(0.5, 1.0, 0.5, 0.0), sums(0, 0))
    clock.now = 16.0
    record = state.push(2, at(), [result(uid) for uid in mine[2]], Timings(1.0, 4.0, 0.5, 0.5), sums(0, 0))
    assert record.seconds == 6.0
    assert record.timings == Timings(pull=0.875, train=3.25, push=0.5, wait=1.375)


@pytest.mark.parametrize(("apart", "last"), [((0.0, 0.0), "b"), ((1.0, 5.5), "a"), ((3.0, 0.0), "b")])
def test_who_was_waited_for_is_the_last_of_whom_waited_least_for_others(apart, last):
    """Rank 1 is done at 12 and rank 2 at 16, so rank 1 waits 4 s more than what it has waited before it pushed."""
    clock = FakeClock()
    state = make_state(lanes={1: 1, 2: 3}, clock=clock)
    mine = {rank: share(state, rank, DAY, 1, 0).uids for rank in (1, 2)}
    names = {"a": mine[1][-1], "b": mine[2][0]}
    clock.now = 12.0
    times = Timings(last=names["a"], turn=1.5, apart=apart[0])
    state.push(1, at(), [result(uid) for uid in mine[1]], times, sums(0, 0))
    clock.now = 16.0
    times = Timings(last=names["b"], turn=2.5, apart=apart[1])
    record = state.push(2, at(), [result(uid) for uid in mine[2]], times, sums(0, 0))
    assert (record.timings.last, record.timings.turn) == (names[last], 1.5 if last == "a" else 2.5)


def test_a_round_lasts_from_the_end_of_the_one_before():
    clock = FakeClock()
    state = make_state(clock=clock)
    clock.now = 100.0
    play_first(state)
    clock.now = 103.0
    share(state, 1, DAY, 2, 1)
    clock.now = 104.0
    state.push(1, at(2, 1), [result("d")], NO_TIME, sums(0, 0, exponent=4))
    record = state.push(2, at(2, 1), [result("b")], NO_TIME, sums(0, 0, exponent=4))
    assert record.seconds == 4.0


def test_an_evaluation_is_no_part_of_the_round_after_it():
    clock = FakeClock()
    state = make_state(clock=clock)
    play_first(state)
    report_users(state, date=NEXT, split="test")
    clock.now = 50.0
    shares = {rank: state.test_share(rank, at(1, 1, NEXT)).uids for rank in (1, 2)}
    clock.now = 58.0
    for rank, uids in shares.items():
        record = state.report_test(rank, at(1, 1, NEXT), [result(uid, 0.0) for uid in uids], NO_TIME)
    assert record.seconds == 8.0
    clock.now = 70.0
    share(state, 1, DAY, 2, 1)
    clock.now = 71.0
    state.push(1, at(2, 1), [result("d")], NO_TIME, sums(0, 0, exponent=4))
    assert state.push(2, at(2, 1), [result("b")], NO_TIME, sums(0, 0, exponent=4)).seconds == 1.0


# -- evaluation --------------------------------------------------------------------


def test_an_evaluation_that_nobody_held_is_not_on_for_ever():
    """Rank 1 alone asks for the one that is due, and the rounds go on; the next one takes its place."""
    state = make_state()
    report_users(state, date=NEXT, split="test")
    state.test_share(1, at(0, 0, NEXT))
    play_first(state)
    shares = {rank: state.test_share(rank, at(1, 1, NEXT)).uids for rank in (1, 2)}
    for rank, uids in shares.items():
        record = state.report_test(rank, at(1, 1, NEXT), [result(uid, 0.0) for uid in uids], NO_TIME)
    assert len(record.results) == len(COUNTS)


@pytest.mark.parametrize(
    ("lanes", "first", "second"), [({1: 1, 2: 1}, "abefij", "cdgh"), ({1: 1, 2: 3}, "abij", "cdefgh")]
)
def test_users_of_a_test_in_groups_are_dealt_out_in_whole_groups(lanes, first, second):
    """64 examples in one go, so 8 at least: ten users of 4 are five groups of two, dealt out in turn by shards."""
    state = make_state(lanes=lanes)
    report_users(state, dict.fromkeys("jihgfedcba", 4), NEXT, "test")
    shares = [state.test_share(rank, at(0, 0, NEXT), 64) for rank in (1, 2)]
    assert shares == [
        Share(tuple(uids), (4,) * len(uids), cohort_size=10, groups=(2,) * (len(uids) // 2)) for uids in (first, second)
    ]


def test_an_evaluation_gathers_all_users_and_moves_nothing():
    state = make_state(optimizer=FedAvgM(1.0))
    report_users(state, {"a": 3, "x": 5, "y": 1}, NEXT, "test")
    assert state.test_share(1, at(0, 0, NEXT)) == Share(("x",), (5,), 0, 3)
    assert state.test_share(2, at(0, 0, NEXT)).uids == ("a", "y")
    when = at(0, 0, NEXT)
    before = (frozen(state.model.params), state.step)
    two = [UserResult(uid, {"a": 3, "y": 1}[uid], 0.0, {"top1": (1.0, 4.0)}) for uid in ("y", "a")]
    assert state.report_test(2, when, two, NO_TIME) is None
    with pytest.raises(AlreadyDone, match="rank 2 has already pushed"):
        state.report_test(2, when, two, NO_TIME)
    record = state.report_test(1, when, [UserResult("x", 5, 0.0, {})], NO_TIME)
    assert (record.phase, record.at, [r.uid for r in record.results]) == ("test", when, ["a", "x", "y"])
    assert (frozen(state.model.params), state.step) == before
    assert state.model._slots.state_dict() == {}
    assert share(state, 1, DAY, 1, 0).uids == ("a",)


# -- the sampler's say -------------------------------------------------------------


def test_a_cohort_is_drawn_for_the_seed_date_and_round():
    users = {f"u{i}": 1 for i in range(100)}
    sampler = UniformSampler(5)
    state = make_state(ready=False, sampler=sampler, lanes={3: 2})
    add_users(state, 3, DAY, "train", users)
    assert set(share(state, 3, DAY, 1, 0, "uniform").uids) == set(sampler.sample(UserTable.of(users), at()))


def test_the_next_share_is_the_same_asked_for_ahead_or_in_time():
    """Asking for both rounds at once, or for the second early, gives what asking in time gives."""
    clock = FakeClock()
    bulk, ahead, plain = make_state(clock=clock), make_state(clock=clock), make_state(clock=clock)
    for state in (ahead, plain):
        for rank in (1, 2):
            share(state, rank, DAY, 1, 0)
    both = {rank: bulk.train_shares(rank, at(), 2) for rank in (1, 2)}
    early = {rank: share(ahead, rank, DAY, 2, 1) for rank in (1, 2)}
    assert ahead.step == 0
    assert {rank: share(plain, rank, DAY, 1, 0) for rank in (1, 2)} == {rank: both[rank][0] for rank in (1, 2)}
    clock.now = 5.0
    for state in (bulk, ahead, plain):
        for rank in (1, 2):
            users = both[rank][0].uids
            state.push(rank, at(), [result(uid) for uid in users], NO_TIME, sums(1, 1))
    assert {rank: share(plain, rank, DAY, 2, 1) for rank in (1, 2)} == early
    assert {rank: both[rank][1] for rank in (1, 2)} == early
    clock.now = 7.0
    for state in (bulk, ahead, plain):
        for rank in (1, 2):
            users = early[rank].uids
            record = state.push(rank, at(2, 1), [result(uid) for uid in users], NO_TIME, sums(1, 1))
        assert record.seconds == 2.0  # from the end of the first round, not from when its users were asked for


def test_users_asked_for_ahead_leave_room_for_a_test():
    """The round after a test lasts from the end of the test."""
    clock = FakeClock()
    state = make_state(clock=clock)
    report_users(state, {"a": 1, "b": 1}, NEXT, "test")
    for rank in (1, 2):
        state.train_shares(rank, at(), 2)
    for rank, users in ((1, "a"), (2, "bc")):
        state.push(rank, at(), [result(uid) for uid in users], NO_TIME, sums(1, 1))
    clock.now = 3.0
    for rank in (1, 2):
        uids = state.test_share(rank, at(1, 1, NEXT)).uids
        record = state.report_test(rank, at(1, 1, NEXT), [UserResult(uid, 1, 0.0) for uid in uids], NO_TIME)
    assert record.seconds == 0.0
    clock.now = 4.0
    for rank, users in ((1, "d"), (2, "b")):
        record = state.push(rank, at(2, 1), [result(uid) for uid in users], NO_TIME, sums(1, 1))
    assert record.seconds == 1.0
