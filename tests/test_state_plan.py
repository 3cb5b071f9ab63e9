"""scheduler/state/plan.py: what a run does, in which order, written out by hand."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import BadInput, WrongState
from scheduler.rules.samplers import Round
from scheduler.service.messages import stage_from_message, stage_to_message
from scheduler.state.plan import MOST_STAGES, Clear, DayPlan, End, Evaluate, Load, Plan, Train, plan_days

DAYS = ("20200101", "20200102", "20200103")
ONE, TWO, THREE = DAYS


def said(stage):
    """A stage in a few letters: dates are their last digit, rounds are as the run counts them, from 0."""
    match stage:
        case Load(date, split):
            return f"load {date[-1]} {split}"
        case Train(date, first, step, rounds, left):
            return f"train {date[-1]}: {first}-{first + rounds - 1} of {first + rounds + left - 1} at {step}"
        case Evaluate(date, step, day):
            assert int(date) - int(day) == (date != day)
            return f"test {date[-1]} after {step}"
        case Clear(date, split):
            return f"clear {date[-1]} {split}"
        case End():
            return "end"


def all_of(plan, step=0):
    return [said(stage) for stage in plan.after(step)]


def make(days=DAYS, rounds=5, *, last=False, test=True, **more):
    return Plan(plan_days(days, train_last_day=last, test=test), rounds, **more)


# -- days --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "last", "test", "plan"),
    [
        ("abc", False, True, [("a", "b"), ("b", "c")]),
        ("abc", True, True, [("a", "b"), ("b", "c"), ("c", None)]),
        ("abc", False, False, [("a", None), ("b", None)]),
        ("abc", True, False, [("a", None), ("b", None), ("c", None)]),
        ("a", False, True, [("a", "a")]),
        ("a", True, True, [("a", "a")]),
        ("a", False, False, [("a", None)]),
    ],
)
def test_each_day_is_tested_before_it_is_trained_on(days, last, test, plan):
    assert plan_days(list(days), train_last_day=last, test=test) == tuple(DayPlan(*day) for day in plan)


# -- by hand -----------------------------------------------------------------------


def test_the_plan_of_two_days_with_a_test_every_two_rounds():
    assert all_of(make(eval_every=2)) == [
        "load 1 train", "load 2 test",
        "train 1: 1-2 of 5 at 0", "test 2 after 2", "train 1: 3-4 of 5 at 2", "test 2 after 4",
        "train 1: 5-5 of 5 at 4", "test 2 after 5", "clear 1 train", "clear 2 test",
        "load 2 train", "load 3 test",
        "train 2: 1-2 of 5 at 5", "test 3 after 7", "train 2: 3-4 of 5 at 7", "test 3 after 9",
        "train 2: 5-5 of 5 at 9", "test 3 after 10", "clear 2 train", "clear 3 test",
        "end",
    ]  # fmt: skip


def test_the_plan_of_one_day_and_of_a_last_day_without_a_test():
    day = ["load 1 train", "load 1 test", "train 1: 1-3 of 3 at 0", "test 1 after 3", "clear 1 train", "clear 1 test"]
    assert all_of(make(DAYS[:1], 3)) == [*day, "end"]
    assert all_of(make(DAYS[:2], 3, last=True, eval_every=2))[-4:] == [
        "load 2 train", "train 2: 1-3 of 3 at 3", "clear 2 train", "end",
    ]  # fmt: skip


def test_without_rounds_every_day_is_tested_and_nothing_is_trained():
    plan = make(rounds=0)
    assert all_of(plan) == [
        "load 2 test", "test 2 after 0", "clear 1 train", "clear 2 test",
        "load 3 test", "test 3 after 0", "clear 2 train", "clear 3 test", "end",
    ]  # fmt: skip
    assert plan.tests(0) == (TWO, THREE)
    assert plan.steps == 0


def test_a_run_that_goes_on_loads_the_day_first():
    plan = make(eval_every=2)
    assert all_of(plan.go_on(3), 3)[:4] == [
        "load 1 train", "load 2 test", "train 1: 4-4 of 5 at 3", "test 2 after 4",
    ]  # fmt: skip
    # After a test that was due: it is held again.
    assert all_of(plan.go_on(4), 4)[:4] == [
        "load 1 train", "load 2 test", "test 2 after 4", "train 1: 5-5 of 5 at 4",
    ]  # fmt: skip
    # After the last round of a day only its test is still to come; users may train before it.
    assert all_of(plan.go_on(5), 5)[:6] == [
        "load 1 train", "load 2 test", "test 2 after 5", "clear 1 train", "clear 2 test", "load 2 train",
    ]  # fmt: skip
    assert all_of(plan.go_on(10), 10) == [
        "load 2 train", "load 3 test", "test 3 after 10", "clear 2 train", "clear 3 test", "end",
    ]  # fmt: skip


def test_an_asked_test_comes_after_the_rounds_that_are_done():
    plan = make(flexible=True)
    assert all_of(plan, 2)[:2] == ["train 1: 3-5 of 5 at 2", "test 2 after 5"]
    assert all_of(plan.ask_test(2), 2)[:3] == ["test 2 after 2", "train 1: 3-5 of 5 at 2", "test 2 after 5"]
    assert all_of(plan.ask_test(0))[:4] == ["load 1 train", "load 2 test", "test 2 after 0", "train 1: 1-5 of 5 at 0"]
    # At the end of a day there is one anyway, and no second one where the next begins.
    assert all_of(plan.ask_test(5)) == all_of(plan)
    with pytest.raises(WrongState, match="in a run whose plan is fixed"):
        make().ask_test(2)
    with pytest.raises(WrongState, match=r"after 2 rounds, but date 20200101 has none"):
        make(test=False, flexible=True).ask_test(2)


def test_the_rounds_of_a_date_that_are_still_to_come():
    """Of days 1 and 2 with five rounds each, in the middle of the first, at its end and in the second; 3 has none."""
    plan = make()
    for step, rounds in ((3, ((3, 4), (5, 6, 7, 8, 9), ())), (5, ((), (5, 6, 7, 8, 9), ())), (9, ((), (9,), ()))):
        assert tuple(tuple(plan.due_on(date, step)) for date in DAYS) == rounds


def test_shards_begin_by_themselves_only_where_the_next_round_is_certain():
    assert {stage.ahead for stage in make().after(0) if isinstance(stage, Train)} == {True}
    assert {stage.ahead for stage in make(flexible=True).after(0) if isinstance(stage, Train)} == {False}


# -- in parts ----------------------------------------------------------------------


def walk(plan, step=0):
    """As a simulator: asks for the next stages, does them, asks again."""
    done = []
    while True:
        told = plan.next_stages(step)
        done += told
        if told[-1] == End():
            return done
        assert isinstance(told[-1], Train), "only the end of rounds is a place to go on from"
        before, step = step, told[-1].step + told[-1].rounds
        assert step > before


def test_a_million_tests_are_told_a_few_at_a_time():
    plan = make(DAYS[:1], 1_000_000, eval_every=1)
    assert len(plan.next_stages(0)) <= MOST_STAGES + 1
    assert said(plan.next_stages(999_998)[1]) == "train 1: 999999-999999 of 1000000 at 999998"


PLANS = st.builds(
    lambda days, rounds, last, test, every, asked: replace(
        make(DAYS[:days], rounds, last=last, test=test, eval_every=every), asked=frozenset(asked)
    ),
    st.integers(1, 3), st.integers(0, 40), st.booleans(), st.booleans(), st.integers(0, 7), st.sets(st.integers(0, 99)),
)  # fmt: skip


def rounds_and_tests(stages):
    """What changes the results: each round, and each test with how many rounds came before."""
    for stage in stages:
        if isinstance(stage, Train):
            yield from (stage.at(place, 7) for place in range(stage.rounds))
        elif isinstance(stage, Evaluate):
            yield stage


@settings(derandomize=True, max_examples=200, deadline=None)
@given(PLANS)
def test_asking_part_by_part_gives_the_whole_plan(plan):
    assert walk(plan) == list(plan.after(0))


@settings(derandomize=True, max_examples=200, deadline=None)
@given(PLANS, st.data())
def test_wherever_a_run_stops_and_goes_on_it_does_the_same(plan, data):
    """The record is cut after the round of the checkpoint, so that the tests after it are held again."""
    whole = list(rounds_and_tests(plan.after(0)))
    rounds = [i for i, what in enumerate(whole) if isinstance(what, Round)]
    if not rounds:
        return
    step = data.draw(st.integers(1, len(rounds)))
    went_on = plan.go_on(step)
    assert whole[: rounds[step - 1] + 1] + list(rounds_and_tests(walk(went_on, step))) == whole


@settings(derandomize=True, max_examples=100, deadline=None)
@given(PLANS)
def test_data_is_there_when_it_is_used_and_gone_when_it_is_not(plan):
    here = set()
    for stage in plan.after(0):
        match stage:
            case Load(date, split):
                assert (date, split) not in here
                here.add((date, split))
            case Train(date):
                assert (date, "train") in here
            case Evaluate(date, _, day):
                assert (date, "test") in here
                assert (day, "train") in here or not plan.rounds
            case Clear(date, split):
                here.discard((date, split))
    assert not here


@settings(derandomize=True, max_examples=100, deadline=None)
@given(PLANS)
def test_rounds_are_checked_as_they_are_planned(plan):
    for stage in plan.after(0):
        if isinstance(stage, Train):
            plan.check_rounds(stage.at(0, 7), stage.rounds + stage.left)
            for wrong, rounds in (
                (stage.at(0, 7), stage.rounds + stage.left + 1),
                (stage.at(-1, 7) if stage.first == 1 else replace(stage.at(0, 7), round=stage.first + 1), 1),
                (replace(stage.at(0, 7), date="20190101"), 1),
                (replace(stage.at(0, 7), step=plan.steps), 1),
            ):
                with pytest.raises(WrongState):
                    plan.check_rounds(wrong, rounds)
            assert stage.step in plan.day_steps(stage.step)
    if plan.rounds:
        assert plan.tests(plan.steps) == tuple(date for date in [plan.days[-1].test_date] if date)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(PLANS)
def test_stages_come_through_messages(plan):
    assert [stage_from_message(stage_to_message(stage)) for stage in plan.after(0)] == list(plan.after(0))


def test_a_checkpoint_of_another_day_is_refused():
    plan = make()
    plan.check_resumed(5, ONE)
    plan.check_resumed(6, TWO)
    with pytest.raises(BadInput, match="of date 20200101, day 2 of the run; the data has 20200102 there"):
        plan.check_resumed(6, ONE)
    with pytest.raises(BadInput, match="of date 20200103, day 3 of the run; the data has none there"):
        plan.check_resumed(11, THREE)
