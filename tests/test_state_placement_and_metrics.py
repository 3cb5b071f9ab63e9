"""scheduler/state/placement.py and scheduler/rules/metrics.py."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.rules.metrics import SPREAD, UserResult, ratio, reduce_metrics, user_histogram, user_spread
from scheduler.state.placement import groups_of, place

quick = settings(derandomize=True, max_examples=80, deadline=None)

# -- placement ---------------------------------------------------------------------


def test_the_longest_goes_to_the_least_loaded():
    """7 | 5; 4 joins 5 (9); 3 joins 7 (10); 1 joins 9 (10)."""
    assert place([7, 5, 4, 3, 1], [1, 1]) == [[0, 3], [1, 2, 4]]
    assert place([1, 3, 4, 5, 7], [1, 1]) == [[4, 1], [3, 2, 0]]


def test_every_shard_of_a_simulator_counts():
    """Shards A0, A1, B0: 7 to A0, 5 to B0, 4 to A1; 3 joins 4 (7), 1 joins 5 (6)."""
    assert place([7, 5, 4, 3, 1], [2, 1]) == [[0, 2, 3], [1, 4]]


def test_equal_users_are_dealt_by_shards():
    assert [len(mine) for mine in place([2] * 12, [1, 2, 3])] == [2, 4, 6]


def test_nobody_and_fewer_users_than_simulators():
    assert place([], [1, 2]) == [[], []]
    assert place([5], [1, 1, 1]) == [[0], [], []]


sizes = st.lists(st.integers(1, 1000), max_size=30)
lanes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@quick
@given(sizes, lanes)
def test_everyone_is_placed_once_and_longest_first(sizes, lanes):
    placed = place(sizes, lanes)
    assert len(placed) == len(lanes)
    assert sorted(i for mine in placed for i in mine) == list(range(len(sizes)))
    for mine in placed:
        assert [sizes[i] for i in mine] == sorted((sizes[i] for i in mine), reverse=True)


@quick
@given(sizes.filter(bool), lanes)
def test_no_simulator_has_more_than_its_shards_finish_in_time(sizes, lanes):
    """Graham's bound of a shard, mean + (1 - 1/m) max, times the simulator's shards."""
    m = sum(lanes)
    bound = sum(sizes) / m + (1 - 1 / m) * max(sizes)
    for mine, count in zip(place(sizes, lanes), lanes, strict=True):
        assert sum(sizes[i] for i in mine) <= count * bound + 1e-9


# -- groups ------------------------------------------------------------------------


def test_users_of_like_size_meet_and_groups_become_smaller():
    """Of 16 x 40 = 640 examples the first group has a 16th, 40; so have those after it, down to 80 / 8 = 10."""
    sizes = [20] * 16 + [10] * 32
    groups = groups_of([f"u{i:02d}" for i in range(48)], sizes, 80)
    assert groups[:4] == [[0, 1], [2], [3], [4]]  # 640 left: 40; 600: 37; 580: 36; 560: 35
    assert [len(group) for group in groups[-8:]] == [1] * 8


def test_a_user_with_more_than_a_group_takes_is_one_by_itself():
    assert groups_of(["a", "b", "c", "d"], [1, 100, 1, 2], 16) == [[1], [3], [0, 2]]


def test_who_meets_whom_does_not_depend_on_the_order_of_the_cohort():
    """Of like size, the first by uid."""
    uids, sizes = ["d", "b", "c", "a"], [3, 3, 3, 3]
    assert [[uids[i] for i in group] for group in groups_of(uids, sizes, 48)] == [["a", "b"], ["c", "d"]]
    assert groups_of([], [], 8) == []


@quick
@given(sizes, st.integers(1, 3000))
def test_every_user_is_in_one_group_within_bounds(sizes, most):
    groups = groups_of([f"u{i:02d}" for i in range(len(sizes))], sizes, most)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    assert all(len(group) == 1 or sum(sizes[i] for i in group) <= most for group in groups)


@settings(quick, max_examples=40)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 3))
def test_the_makespan_is_within_grahams_bound_of_the_best(sizes, m):
    """LPT <= (4/3 - 1/(3m)) OPT, in whole numbers: 3m LPT <= (4m - 1) OPT."""
    best = min(
        max(sum(size for size, lane in zip(sizes, lanes, strict=True) if lane == i) for i in range(m))
        for lanes in itertools.product(range(m), repeat=len(sizes))
    )
    longest = max(sum(sizes[i] for i in mine) for mine in place(sizes, [1] * m))
    assert best <= longest
    assert 3 * m * longest <= (4 * m - 1) * best


# -- metrics -----------------------------------------------------------------------


def user(uid, **metrics):
    return UserResult(uid, 1, 1.0, metrics)


def test_sums_and_counts_are_added_apart():
    reduced = reduce_metrics([user("a", loss=(6.0, 2.0)), user("b", loss=(1.0, 3.0), top1=(1.0, 4.0))])
    assert reduced == {"loss": (7.0, 5.0), "top1": (1.0, 4.0)}
    assert ratio(reduced["loss"]) == 1.4
    assert reduce_metrics([]) == {}


def test_a_ratio_without_a_count_is_not_a_number():
    assert math.isnan(ratio((0.0, 0.0)))
    assert ratio((0.0, 4.0)) == 0.0


pairs = st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6))


@quick
@given(
    st.lists(st.dictionaries(st.sampled_from(["loss", "top1", "mine"]), pairs), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_the_order_of_users_does_not_matter_to_the_bit(metrics, random):
    results = [UserResult(str(i), 1, 1.0, pairs) for i, pairs in enumerate(metrics)]
    shuffled = list(results)
    random.shuffle(shuffled)
    assert repr(reduce_metrics(shuffled)) == repr(reduce_metrics(results))
    assert repr(user_spread(shuffled, "top1")) == repr(user_spread(results, "top1"))


def test_sums_are_rounded_once():
    """One by one, 1e16 + 1 + 1 gives 1e16."""
    results = [user(uid, m=(value, 0.1)) for uid, value in (("a", 1e16), ("b", 1.0), ("c", 1.0))]
    assert reduce_metrics(results)["m"][0] == 10000000000000002.0


def test_the_spread_of_users_by_hand():
    """Own values 0, 0.1, ..., 1 of users of different size: each counts once.  The worst of 11 is one user.

    The variance is 2 (0.1^2 + ... + 0.5^2) / 11 = 0.1.
    """
    results = [
        user(str(i), top1=(i * count / 10, float(count))) for i, count in zip(range(11), range(1, 12), strict=True)
    ]
    spread = {"mean": 0.5, "p10": 0.1, "p50": 0.5, "p90": 0.9, "worst10": 0.0, "variance": 0.1}
    assert user_spread(results, "top1") == pytest.approx(spread)
    assert user_spread(results, "top1", higher_is_better=False)["worst10"] == 1.0


def test_the_worst_tenth_is_the_mean_of_its_users():
    """Of 29 users, who have 0, 1, ..., 28, the worst two: 0.5; if less is better 27.5."""
    results = [user(str(i), loss=(float(i), 1.0)) for i in range(29)]
    assert user_spread(results, "loss")["worst10"] == 0.5
    assert user_spread(results, "loss", higher_is_better=False)["worst10"] == 27.5


@pytest.mark.parametrize("higher", [True, False])
def test_a_user_without_a_finite_value_shows(higher):
    results = [user(str(i), loss=(value, 1.0)) for i, value in enumerate([0.5, math.nan, 0.25])]
    spread = user_spread(results, "loss", higher_is_better=higher)
    assert math.isnan(spread["mean"])
    assert math.isnan(spread["worst10"])
    assert math.isnan(spread["variance"])
    *_, last = bins = user_histogram(results, "loss")
    assert (math.isnan(last.low), math.isnan(last.high), last.users, len(bins)) == (True, True, 1, 11)


def test_a_histogram_of_accuracies_by_hand():
    """Ranges of a tenth: an edge belongs to the range that it begins, 1 to the last."""
    results = [user(str(i), top1=(hits, 10.0)) for i, hits in enumerate([0.0, 0.5, 1.0, 3.0, 9.0, 9.5, 10.0])]
    bins = user_histogram(results, "top1")
    assert [each.users for each in bins] == [2, 1, 0, 1, 0, 0, 0, 0, 0, 3]
    assert [each.low for each in bins] == pytest.approx([k / 10 for k in range(10)])
    assert [each.high for each in bins[:-1]] == [each.low for each in bins[1:]]
    assert (bins[0].low, bins[-1].high) == (0.0, 1.0)


def test_a_histogram_of_other_values_goes_from_the_lowest_to_the_highest():
    results = [user(str(i), loss=(float(i), 2.0)) for i in range(21)]
    bins = user_histogram(results, "loss")
    assert [(each.low, each.high) for each in bins] == [(float(k), float(k + 1)) for k in range(10)]
    assert [each.users for each in bins] == [2] * 9 + [3]
    assert [each.users for each in user_histogram([user("a", loss=(7.0, 1.0))], "loss")] == [0] * 9 + [1]
    assert user_histogram([user("a", top1=(0.0, 0.0))], "top1") == []


def test_percentiles_between_two_users_are_interpolated():
    """Values 0 and 1: p10 is a tenth of the way."""
    results = [user("a", top1=(3.0, 3.0)), user("b", top1=(0.0, 7.0))]
    spread = {"mean": 0.5, "p10": 0.1, "p50": 0.5, "p90": 0.9, "worst10": 0.0, "variance": 0.25}
    assert user_spread(results, "top1") == pytest.approx(spread)


def test_users_without_the_metric_or_its_count_are_left_out_of_the_spread():
    results = [user("a", top1=(1.0, 2.0)), user("b", top1=(0.0, 0.0)), user("c", loss=(1.0, 1.0))]
    assert user_spread(results, "top1") == dict.fromkeys(SPREAD, 0.5) | {"variance": 0.0}
    assert all(math.isnan(value) for value in user_spread(results, "other").values())
