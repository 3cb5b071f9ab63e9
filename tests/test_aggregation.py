"""scheduler/aggregation.py: the weighted mean of deltas, exact, whoever adds and in whatever order."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protos.codec import TensorSpec
from protos.errors import BadInput
from scheduler.aggregation import (
    BLOCK,
    FRACTION_BITS,
    ExactSum,
    mean_factor,
    scale_exponent,
    sum_specs,
    total_weight,
)

quick = settings(derandomize=True, max_examples=60, deadline=None)
SHAPE = (2, 3)


def sums(shape=SHAPE):
    return {"w": np.zeros(shape, np.int64)}


def add(totals, new, old, weight=1.0, *, cohort=1, exponent=0, uid="ann"):
    ExactSum(totals, cohort, exponent).add("w", np.asarray(new), np.asarray(old), weight, uid)


# -- by hand -----------------------------------------------------------------------


def test_the_weighted_mean_of_two_users_by_hand():
    """Weights 1 and 3, deltas [1, -2] and [2, 0.5]: mean [(1 + 6) / 4, (-2 + 1.5) / 4] = [1.75, -0.125]."""
    exponent = scale_exponent(4)
    assert exponent == 2
    totals = sums(2)
    exact = ExactSum(totals, 2, exponent)
    old = np.array([10.0, 10.0], np.float32)
    exact.add("w", np.array([11.0, 8.0], np.float32), old, 1.0, "ann")
    exact.add("w", np.array([12.0, 10.5], np.float32), old, 3.0, "bob")
    # The grid is 2**(48 - 2) to one, so the sums are 7 * 2**46 and -0.5 * 2**46.
    assert totals["w"].tolist() == [7 * 2**46, -(2**45)]
    assert (totals["w"] * mean_factor(total_weight([1.0, 3.0]), exponent)).tolist() == [1.75, -0.125]


@pytest.mark.parametrize(
    ("examples", "exponent"),
    [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1000, 10), (1024, 10), (1025, 11), (2**40, 40), (2**40 + 1, 41)],
)
def test_the_exponent_is_the_least_power_of_two_that_holds_the_cohort(examples, exponent):
    assert scale_exponent(examples) == exponent


def test_mean_factor_by_hand():
    """2**(3 - 48) / 5."""
    assert mean_factor(5.0, 3) == 1 / (5 * 2**45)


def test_the_sum_of_weights_does_not_depend_on_order():
    """Added one by one, 1e16 + 1 + 1 loses both ones."""
    assert total_weight([1e16, 1.0, 1.0]) == total_weight([1.0, 1e16, 1.0]) == 10000000000000002.0


def test_sums_are_added_in_place_to_what_is_there():
    totals = {"w": np.full(SHAPE, 5, np.int64)}
    add(totals, np.full(SHAPE, 1.0), np.zeros(SHAPE), exponent=FRACTION_BITS)
    add(totals, np.zeros(SHAPE), np.zeros(SHAPE), exponent=FRACTION_BITS)
    assert totals["w"].tolist() == [[6, 6, 6], [6, 6, 6]]


def test_sums_look_like_the_parameters_but_hold_int64():
    assert sum_specs({"w": TensorSpec("float32", SHAPE)}) == {"w": TensorSpec("int64", SHAPE)}


# -- properties --------------------------------------------------------------------

values = hnp.arrays(np.float32, SHAPE, elements=st.floats(-100, 100, width=32))
users = st.lists(st.tuples(values, st.integers(1, 60)), min_size=1, max_size=6)


@quick
@given(users, values, st.data())
def test_any_split_over_any_accumulators_in_any_order_gives_the_same_integers(cohort, old, data):
    exponent = scale_exponent(sum(weight for _, weight in cohort))
    whole = sums()
    for i, (new, weight) in enumerate(cohort):
        add(whole, new, old, float(weight), cohort=len(cohort), exponent=exponent, uid=str(i))
    parts = [sums() for _ in range(data.draw(st.integers(1, 4)))]
    accumulators = [ExactSum(part, len(cohort), exponent) for part in parts]
    for i in data.draw(st.permutations(range(len(cohort)))):
        accumulator = accumulators[data.draw(st.integers(0, len(parts) - 1))]
        accumulator.add("w", cohort[i][0], old, float(cohort[i][1]), str(i))
    assert np.array_equal(sum(part["w"] for part in parts), whole["w"])


@quick
@given(users, values)
def test_the_mean_agrees_with_an_exact_reference_to_the_grid(cohort, old):
    """Each user is rounded by half a step at most; a step is 2**(e - 48) / W <= 2**-47 of the mean."""
    weight = sum(w for _, w in cohort)
    exponent = scale_exponent(weight)
    totals = sums()
    for i, (new, w) in enumerate(cohort):
        add(totals, new, old, float(w), cohort=len(cohort), exponent=exponent, uid=str(i))
    got = totals["w"] * mean_factor(total_weight(float(w) for _, w in cohort), exponent)
    for place in np.ndindex(SHAPE):
        exact = sum(w * (Fraction(float(new[place])) - Fraction(float(old[place]))) for new, w in cohort) / weight
        assert abs(Fraction(float(got[place])) - exact) <= len(cohort) * Fraction(1, 2**48) + abs(exact) * 2**-52


def test_a_mean_of_many_blocks_agrees_with_a_float64_reference():
    rng = np.random.default_rng(0)
    size, weights = 2 * BLOCK + 17, [3.0, 250.0, 41.0]
    old = rng.normal(size=size).astype(np.float32)
    news = [old + rng.normal(scale=0.1, size=size).astype(np.float32) for _ in weights]
    exponent, totals = scale_exponent(294), sums(size)
    for i, (new, w) in enumerate(zip(news, weights, strict=True)):
        add(totals, new, old, w, cohort=3, exponent=exponent, uid=str(i))
    reference = sum(w * (new.astype(np.float64) - old) for new, w in zip(news, weights, strict=True)) / 294
    np.testing.assert_allclose(totals["w"] * mean_factor(294.0, exponent), reference, rtol=0, atol=3 * 2.0**-48)


@quick
@given(st.integers(1, 2**40))
def test_the_exponent_holds_the_cohort_and_is_the_least(examples):
    exponent = scale_exponent(examples)
    assert 2**exponent >= examples
    assert exponent == 0 or 2 ** (exponent - 1) < examples


# -- the two ways of rounding ------------------------------------------------------

BORDER = [0.5, 1.5, 2.5, 0.49999999999999994, 2.0**50 + 0.5, 2.0**51 - 0.25, 2.0**51 - 0.5, 2.0**51 - 0.75, 2.0**51 - 1]


def rounded(deltas, *more):
    """Integers of float64 deltas on a grid of step 1; with `more` in their block."""
    deltas = np.array([*deltas, *more])
    totals = sums(deltas.size)
    add(totals, deltas, np.zeros_like(deltas), exponent=FRACTION_BITS)
    return totals["w"][: len(deltas) - len(more)].tolist()


def check_both_ways(deltas):
    # One element of 2**51 sends the whole block the other way.
    expected = [int(np.rint(delta)) for delta in deltas]
    assert rounded(deltas) == expected
    assert rounded(deltas, 2.0**51) == expected


def test_the_fast_and_the_careful_way_agree_at_the_border():
    check_both_ways(BORDER)
    check_both_ways([-delta for delta in BORDER])
    assert rounded([2.0**51, -(2.0**51), 2.0**52 + 1]) == [2**51, -(2**51), 2**52 + 1]


@quick
@given(st.lists(st.floats(-(2.0**51), 2.0**51, exclude_min=True, exclude_max=True), min_size=1, max_size=8))
def test_the_fast_and_the_careful_way_agree(deltas):
    check_both_ways(deltas)


# -- refusals ----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, BLOCK + 3])
def test_nan_or_infinity_names_uid_and_parameter(bad, place):
    new = np.ones(BLOCK + 9, np.float32)
    new[place] = bad
    with pytest.raises(BadInput, match=r"uid 'ann': NaN or infinity in the delta of parameter 'w'"):
        add(sums(BLOCK + 9), new, np.zeros(BLOCK + 9, np.float32))


def test_infinity_before_and_after_training_is_refused_too():
    """Infinity minus infinity is NaN."""
    with pytest.raises(BadInput, match="uid 'ann': NaN or infinity"):
        add(sums(2), np.array([np.inf, 0], np.float32), np.array([np.inf, 0], np.float32))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_delta_beyond_what_the_sum_holds_is_refused(sign):
    """Exponent 0, cohort 2: 2**62 / 2 on a grid of 2**48 leaves deltas below 2**13."""
    add(sums(1), [sign * 8191.0], [0.0], cohort=2)
    with pytest.raises(BadInput, match=r"uid 'ann': a delta of 8192 in parameter 'w' is beyond the 8192"):
        add(sums(1), [sign * 8192.0], [0.0], cohort=2)


def test_a_whole_cohort_at_the_limit_does_not_overflow():
    totals = sums(1)
    exact = ExactSum(totals, 3, 0)
    largest = np.nextafter(2.0**14 / 3, 0)
    for uid in "abc":
        exact.add("w", np.array([largest]), np.array([0.0]), 1.0, uid)
    assert totals["w"][0] == 3 * int(np.rint(largest * 2.0**48))
