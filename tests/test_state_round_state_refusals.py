"""scheduler/state/round_state.py: what does not fit is refused, and leaves the state as it was."""

import dataclasses
import math

import numpy as np
import pytest
from test_state_round_state import (
    COUNTS,
    DAY,
    NEXT,
    NO_TIME,
    add_users,
    at,
    frozen,
    make_state,
    report_users,
    result,
    share,
    sums,
)

from protos.errors import AlreadyDone, BadInput, Forbidden, NotFound, WrongState
from scheduler.rules.samplers import UniformSampler

TWO = [result("b"), result("c")]


def push(rank, results, *, when=None, given=None):
    return lambda state: state.push(rank, when or at(), results, NO_TIME, sums(-2, 6) if given is None else given)


def nan(name="w"):
    return {name: np.array([1.0, math.nan], np.float32)}


# In the middle of a round: rank 1 has pushed, rank 2 has not.
DURING_A_ROUND = {
    "a share of a date without users": (lambda s: share(s, 2, NEXT, 1, 0), NotFound, "no train users .* '20200102'"),
    "a share of another round": (lambda s: share(s, 2, DAY, 2, 0), WrongState, "round 2 .* as round 0 of the run"),
    "a share of another step": (lambda s: share(s, 2, DAY, 1, 1), WrongState, "round 1 .* as round 1 of the run"),
    "a share of a later day": (lambda s: share(s, 2, DAY, 1, 2), WrongState, "the day of round 2 is 20200102"),
    "a share far ahead": (lambda s: share(s, 2, DAY, 1, 32), WrongState, "32 of the run was asked for, 0 is due"),
    "shares beyond the day": (lambda s: s.train_shares(2, at(2, 1), 2), WrongState, "1 after it .* 2 rounds a day"),
    "no shares": (lambda s: s.train_shares(2, at(), 0), BadInput, "0 rounds were asked for at once; 1 to 32"),
    "too many shares": (lambda s: s.train_shares(2, at(), 33), BadInput, "33 rounds were asked for at once"),
    "a share of an unknown rank": (lambda s: share(s, 3, DAY, 1, 0), NotFound, r"rank 3 is not .* \(\[1, 2\]\)"),
    "a share of another sampler": (
        lambda s: share(s, 2, DAY, 1, 0, "hash"), WrongState, "samples with 'fixed', not 'hash'",
    ),
    "a test": (lambda s: s.test_share(2, at(0, 0, DAY)), WrongState, "a test after 0 rounds was asked for"),
    "results of a test": (lambda s: s.report_test(2, at(), TWO, NO_TIME), WrongState, "but no round is on"),
    "a replayed push": (push(1, [result("a")]), AlreadyDone, "rank 1 has already pushed date 20200101, round 1"),
    "a push of an unknown rank": (push(0, TWO), NotFound, "rank 0 is not a simulator"),
    "a push of another round": (push(2, TWO, when=at(2)), WrongState, "results for date 20200101, round 2 came"),
    "a push of another step": (push(2, TWO, when=at(1, 1)), WrongState, "came, but date 20200101, round 1 is on"),
    "a push of another day": (push(2, TWO, when=at(date=NEXT)), WrongState, "results for date 20200102"),
    "a user missing": (push(2, [result("b")]), WrongState, r"rank 2's users are not those of its share: \['c'\]"),
    "a user of another share": (push(2, [*TWO, result("a")]), WrongState, r"share: \['a'\]"),
    "a user outside the cohort": (push(2, [result("b"), result("d")]), WrongState, r"share: \['c', 'd'\]"),
    "a user twice": (push(2, [*TWO, result("b")]), WrongState, "users are not those of its share"),
    "a weight of zero": (push(2, [result("b"), result("c", 0.0)]), WrongState, "came with weight 0.0, it has 2.0"),
    "a negative weight": (push(2, [result("b", -1.0), result("c")]), WrongState, "uid 'b' came with weight -1.0"),
    "a weight of NaN": (push(2, [result("b"), result("c", math.nan)]), WrongState, "uid 'c' came with weight nan"),
    "an infinite weight": (push(2, [result("b"), result("c", math.inf)]), WrongState, "uid 'c' came with weight inf"),
    "users without sums": (push(2, TWO, given=[]), BadInput, "rank 2 pushed 2 users but 0 sums"),
    "parameters in place of deltas": (
        lambda s: s.replace(2, at(), TWO, NO_TIME, {"w": np.ones(2, np.float32)}), WrongState, "it takes deltas",
    ),
    "users told twice": (
        lambda s: add_users(s, 1, DAY, "train", {"z": 1}), AlreadyDone, "rank 1 has already told",
    ),
    "users of an unknown rank": (
        lambda s: add_users(s, 5, NEXT, "train", {"z": 1}), NotFound, "rank 5 is not a simulator",
    ),
    "a user without examples": (
        lambda s: add_users(s, 1, NEXT, "train", {"y": 1, "z": 0}), BadInput, "uid 'z' has no examples",
    ),
    "an unknown split": (lambda s: add_users(s, 1, NEXT, "val", {"z": 1}), BadInput, "split 'val' is neither"),
    "initial parameters again": (
        lambda s: s.model.set_initial({"w": np.ones(2, np.float32)}, []), AlreadyDone, "already set",
    ),
    "a private name": (lambda s: s.model.check_names(["w", "mine"]), Forbidden, "parameter 'mine' is private"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), DURING_A_ROUND.values(), ids=list(DURING_A_ROUND))
def test_what_does_not_fit_a_round_changes_nothing(call, kind, message):
    state = make_state()
    share(state, 1, DAY, 1, 0)
    state.push(1, at(), [result("a")], NO_TIME, sums(4, 0))
    before = frozen(vars(state))
    with pytest.raises(kind, match=message):
        call(state)
    assert frozen(vars(state)) == before
    # The round goes on to the end it would have had, see test_a_round_of_two_simulators_by_hand.
    state.push(2, at(), TWO, NO_TIME, sums(-2, 6))
    assert state.model.params["w"].tolist() == [1.5, 3.5]


BETWEEN_ROUNDS = {
    "a day that is not known": (lambda s: share(s, 1, NEXT, 1, 0), NotFound, "no train users .* '20200102'"),
    "a push": (push(1, [result("a")]), WrongState, "but no round is on"),
    "a test that is early": (
        lambda s: s.test_share(1, at(1, 1, DAY)),
        WrongState,
        "after 1 rounds .* 0 are done",
    ),
    "a test of an unknown day": (lambda s: s.test_share(1, at(0, 0, DAY)), NotFound, "no test users are known"),
    "a test by an unknown rank": (lambda s: s.test_share(9, at(0, 0, DAY)), NotFound, "rank 9"),
}


@pytest.mark.parametrize(("call", "kind", "message"), BETWEEN_ROUNDS.values(), ids=list(BETWEEN_ROUNDS))
def test_what_does_not_fit_between_rounds_changes_nothing(call, kind, message):
    state = make_state()
    before = frozen(vars(state))
    with pytest.raises(kind, match=message):
        call(state)
    assert frozen(vars(state)) == before


@pytest.mark.parametrize(
    ("params", "private", "kind", "message"),
    [
        (nan(), [], BadInput, "initial parameter 'w' holds NaN or infinity"),
        ({"w": np.array([math.inf])}, [], BadInput, "initial parameter 'w' holds NaN"),
        ({"w": np.ones(2), "mine": np.ones(2)}, ["mine"], Forbidden, "'mine' is private: the scheduler never takes it"),
        ({"w": np.ones(2, np.int64)}, [], BadInput, "parameter 'w' is int64: shared parameters are floating-point"),
        ({}, ["mine"], BadInput, "no shared parameters"),
    ],
)
def test_initial_parameters_that_cannot_be_are_refused(params, private, kind, message):
    state = make_state(ready=False)
    before = frozen(vars(state))
    with pytest.raises(kind, match=message):
        state.model.set_initial(params, private)
    assert frozen(vars(state)) == before
    with pytest.raises(WrongState, match="not set yet"):
        state.model.specs()


def test_too_few_users_are_noticed_when_the_day_starts_and_change_nothing():
    state = make_state(ready=False, sampler=UniformSampler(5))
    add_users(state, 1, DAY, "train", {"a": 1})
    before = frozen(vars(state))
    with pytest.raises(BadInput, match="--sample-num 5 is more than the 2 users"):
        add_users(state, 2, DAY, "train", {"b": 1})
    assert not state.users.ready(DAY, "train")
    assert frozen(vars(state)) == before


def test_a_day_without_users_is_refused_and_changes_nothing():
    state = make_state(ready=False)
    add_users(state, 1, DAY, "test", {})
    before = frozen(vars(state))
    with pytest.raises(BadInput, match="date 20200101: no users with test data"):
        add_users(state, 2, DAY, "test", {})
    assert not state.users.ready(DAY, "test")
    assert frozen(vars(state)) == before


def test_a_plan_is_checked_when_the_day_starts():
    state = make_state(ready=False)
    with pytest.raises(BadInput, match="cohort 1 names unknown uid 'd'"):
        report_users(state, {uid: COUNTS[uid] for uid in "abc"})


def test_a_cohort_that_breaks_the_contract_opens_no_round():
    class Twice(UniformSampler):
        def sample(self, users, at):
            return ["a", "a"]

    state = make_state(sampler=Twice())
    before = frozen(vars(state))
    with pytest.raises(BadInput, match="sampler Twice chose a uid twice"):
        share(state, 1, DAY, 1, 0)
    assert frozen(vars(state)) == before


def test_a_round_of_a_day_whose_turn_has_not_come_is_refused_though_its_users_are_known():
    state = make_state(sampler=UniformSampler(2))
    report_users(state, date=NEXT)
    before = frozen(vars(state))
    with pytest.raises(WrongState, match=r"date 20200102, round 1 was asked for, round 0 .* due, on an earlier day"):
        share(state, 1, NEXT, 1, 2)
    assert frozen(vars(state)) == before


def test_a_test_that_the_plan_does_not_have_is_refused():
    """Its users are known: it is the other day's, or not after this round."""
    state = make_state()
    for date in (DAY, NEXT):
        report_users(state, date=date, split="test")
    state.plan = dataclasses.replace(state.plan, asked=frozenset(), eval_every=0)
    before = frozen(vars(state))
    for date in (DAY, NEXT):
        with pytest.raises(WrongState, match=f"a test on {date} after 0 rounds was asked for, which is not planned"):
            state.test_share(1, at(0, 0, date))
    assert frozen(vars(state)) == before
