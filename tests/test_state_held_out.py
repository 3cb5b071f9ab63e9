"""Users that are held out: who they are, what samplers see, and where their results stand."""

import numpy as np
import pytest
from test_state_round_state import DAY, NEXT, add_users, at, report_users

from protos.errors import BadInput
from scheduler.rules.exact_sum import Sums
from scheduler.rules.held_out import HeldOut
from scheduler.rules.metrics import UserResult, mean_metrics, user_spread
from scheduler.rules.samplers import AllTestSampler, FixedSampler, OnePercentTestSampler, UniformSampler, UserTable
from scheduler.rules.server_optimizers import FedAvg
from scheduler.rules.streams import stream_key
from scheduler.state.plan import DayPlan, Plan
from scheduler.state.read_users import ReadUsers
from scheduler.state.round_state import RoundState
from scheduler.state.rounds import Rules, Timings

SHARE, SEED = 0.3, 7
UIDS = [f"u{number:02d}" for number in range(20)]
COUNTS = {uid: 1 + number for number, uid in enumerate(UIDS)}
# By the definition: the hash as a number from 0 to 1.
OUT = [uid for uid in UIDS if stream_key(SEED, "held out", uid) / 2**128 < SHARE]
IN = [uid for uid in UIDS if uid not in OUT]


def make_state(sampler=None, test_sampler=None, hold_out=SHARE):
    rules = Rules(
        SEED, sampler or UniformSampler(len(IN)), test_sampler or AllTestSampler(), FedAvg(1.0), rounds=2,
        hold_out=hold_out,
    )  # fmt: skip
    plan = Plan((DayPlan(DAY, NEXT), DayPlan(NEXT, None)), 2, eval_every=1, asked=frozenset([0]))
    state = RoundState(rules, {1: 1, 2: 1}, plan, lambda: 0.0)
    state.model.set_initial({"w": np.array([1.0, 2.0], np.float32)}, [])
    return state


def test_about_the_share_is_held_out_and_another_seed_holds_out_others():
    users = UserTable.of(dict.fromkeys(map(str, range(10_000)), 1))
    others, new = HeldOut(0.2, 0).part(users, DAY, "train")
    assert sorted(others.uids + new.uids) == list(users.uids)
    assert abs(len(new.uids) - 2000) < 4 * np.sqrt(10_000 * 0.2 * 0.8)
    # A larger share holds out these and more.
    assert set(new.uids) < set(HeldOut(0.3, 0).part(users, DAY, "train")[1].uids)
    assert set(new.uids) != set(HeldOut(0.2, 1).part(users, DAY, "train")[1].uids)


def test_nobody_who_is_held_out_trains():
    state = make_state()
    report_users(state, COUNTS)
    shares = [state.train_shares(rank, at())[0] for rank in (1, 2)]
    assert 0 < len(OUT) < len(UIDS)
    assert sorted(shares[0].uids + shares[1].uids) == IN
    assert state.users.table(DAY, "train").uids == tuple(IN)
    for share in shares:
        assert share.counts == tuple(COUNTS[uid] for uid in share.uids)
        assert share.weights == tuple(float(COUNTS[uid]) for uid in share.uids)


def test_the_population_of_a_server_step_is_those_who_may_train(monkeypatch):
    state, steps = make_state(UniformSampler(3)), []
    monkeypatch.setattr(state.model, "move", lambda sums, weights, step: steps.append(step))
    report_users(state, COUNTS)
    shares = {rank: state.train_shares(rank, at())[0] for rank in (1, 2)}
    for rank, share in shares.items():
        results = [UserResult(uid, n, float(n)) for uid, n in zip(share.uids, share.counts, strict=True)]
        exact = [Sums.whole({"w": np.zeros(2, np.int64)})] if results else []
        state.push(rank, at(), results, Timings(), exact)
    assert [(step.cohort, step.population) for step in steps] == [(3, len(IN))]


def test_all_are_tested_and_new_users_have_metrics_of_their_own():
    """Each user k hits k of 100: the means of both kinds, and how each differ, by hand."""
    state = make_state()
    report_users(state, COUNTS, NEXT, "test")
    when, record = at(0, 0, NEXT), None
    for rank in (1, 2):
        share = state.test_share(rank, when)
        results = [
            UserResult(uid, n, 0.0, {"top1": (float(n), 100.0)})
            for uid, n in zip(share.uids, share.counts, strict=True)
        ]
        record = state.report_test(rank, when, results, Timings())
    assert sorted(r.uid for r in record.results if r.new) == OUT
    mean = mean_metrics(record.results)
    assert mean["top1"] == pytest.approx(sum(COUNTS[uid] for uid in IN) / 100 / len(IN))
    assert mean["new_top1"] == pytest.approx(sum(COUNTS[uid] for uid in OUT) / 100 / len(OUT))
    assert user_spread(record.results, "new_top1")["worst10"] == min(COUNTS[uid] for uid in OUT) / 100


def test_a_test_sampler_chooses_among_both():
    """One per cent of either kind, at least one."""
    state = make_state(test_sampler=OnePercentTestSampler())
    report_users(state, COUNTS, NEXT, "test")
    tested = [uid for rank in (1, 2) for uid in state.test_share(rank, at(0, 0, NEXT)).uids]
    assert sorted(uid in OUT for uid in tested) == [False, True]


@pytest.mark.parametrize(("counts", "said"), [
    (dict.fromkeys(OUT, 1), f"holds out all of the {len(OUT)} users with train data, so nobody would be left to"),
    (dict.fromkeys(IN, 1), f"holds out none of the {len(IN)} users with train data, so nobody would be tested as"),
])  # fmt: skip
def test_a_share_that_leaves_nobody_is_refused(counts, said):
    with pytest.raises(BadInput, match=rf"^date {DAY}: --hold-out-users 0.3 {said}"):
        report_users(make_state(), counts)


@pytest.mark.parametrize("sampler", [UniformSampler(len(IN) + 1), FixedSampler([[OUT[0]], [IN[0]]])])
def test_what_a_sampler_refuses_says_who_is_held_out(sampler):
    with pytest.raises(BadInput, match=rf"\(--hold-out-users 0.3 leaves {len(IN)} users to train\)$"):
        report_users(make_state(sampler), COUNTS)


@pytest.mark.parametrize("uid", [OUT[0], IN[0]])
def test_a_metric_that_is_called_as_those_of_new_users_is_refused(uid):
    state = make_state()
    add_users(state, 1, NEXT, "test", {})
    add_users(state, 2, NEXT, "test", {OUT[0]: 1, IN[0]: 1})
    when = at(0, 0, NEXT)
    tested = [(rank, state.test_share(rank, when)) for rank in (1, 2)]
    rank = next(rank for rank, share in tested if uid in share.uids)
    result = UserResult(uid, 1, 0.0, {"new_top1": (1.0, 1.0)})
    with pytest.raises(BadInput, match=f"uid '{uid}': a metric is called 'new_top1'; with --hold-out-users"):
        state.report_test(rank, when, [result], Timings())


def test_without_a_share_all_train():
    state = make_state(UniformSampler(20), hold_out=0.0)
    state.add_users(1, DAY, "train", ReadUsers(COUNTS, dict.fromkeys(COUNTS, 1.0)))
    state.add_users(2, DAY, "train", ReadUsers({}, {}))
    assert state.users.table(DAY, "train").uids == tuple(UIDS)
