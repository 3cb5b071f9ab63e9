"""scheduler/rules/exact_sum.py: the weighted mean of deltas, exact, whoever adds and in whatever order."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protos.codec import TensorSpec
from protos.errors import BadInput
from scheduler.rules.exact_sum import (
    BLOCK,
    FRACTION_BITS,
    ExactSum,
    Sums,
    mean_factor,
    scale_exponent,
    sum_specs,
)

quick = settings(derandomize=True, max_examples=60, deadline=None)
SHAPE = (2, 3)


def make_sums(shape=SHAPE):
    """Sums of one parameter, in memory that is full of what an earlier round left."""
    specs = sum_specs({"w": TensorSpec("float32", shape if isinstance(shape, tuple) else (shape,))})
    arrays = {name: np.full(spec.shape, 77, spec.dtype) for name, spec in specs.items()}
    return Sums.of(arrays, ["w"])


def add(exact, new, old, weight=1.0, uid="ann", rows=None):
    """Takes a copy, so that `new` stays as it is."""
    exact.take("w", np.array(new), np.asarray(old), weight, uid, rows)


def summed(cohort, old, exponent, shape=SHAPE):
    """The total of (new, weight) pairs."""
    sums = make_sums(shape)
    exact = ExactSum(sums, len(cohort), exponent)
    for i, (new, weight) in enumerate(cohort):
        add(exact, new, old, float(weight), str(i))
    return sums.settle("w")


# -- by hand -----------------------------------------------------------------------


def test_the_weighted_mean_of_two_users_by_hand():
    """Weights 1 and 3, deltas [1, -2] and [2, 0.5]: mean [(1 + 6) / 4, (-2 + 1.5) / 4] = [1.75, -0.125]."""
    exponent = scale_exponent([1.0, 3.0])
    assert exponent == 2
    old = np.array([10.0, 10.0], np.float32)
    cohort = [(np.array([11.0, 8.0], np.float32), 1.0), (np.array([12.0, 10.5], np.float32), 3.0)]
    total = summed(cohort, old, exponent, 2)
    # The grid is 2**(48 - 2) to one, so the sums are 7 * 2**46 and -0.5 * 2**46.
    assert total.tolist() == [7 * 2**46, -(2**45)]
    assert (total * mean_factor([1.0, 3.0], exponent)).tolist() == [1.75, -0.125]


@pytest.mark.parametrize(
    ("weights", "exponent"),
    [
        ([1], 0), ([2], 1), ([1, 1, 1], 2), ([4], 2), ([5], 3), ([400, 600], 10), ([1024], 10), ([1024, 1], 11),
        ([2**40], 40), ([2.0**40, 1], 41), ([0, 3, 0], 2), ([0.75], 0), ([0.5], -1), ([0.25, 0.25], -1), ([0.3], -1),
        ([2.0**-1074], -1074), ([2.0**-1074] * 3, -1072), ([1.5 * 2.0**1023] * 2, 1025), ([1.0, 2.0**-1074], 0),
    ],
)  # fmt: skip
def test_the_exponent_is_of_the_least_power_of_two_that_holds_the_weights(weights, exponent):
    assert scale_exponent(weights) == exponent


def test_mean_factor_by_hand():
    """2**(3 - 48) / 5, and the same for weights that are larger by 2**1000 with their own exponent."""
    assert mean_factor([2.0, 3.0], 3) == 1 / (5 * 2**45)
    assert mean_factor([2.0**1001, 3 * 2.0**1000], 1003) == 1 / (5 * 2**45)


def test_the_sum_of_weights_does_not_depend_on_order():
    """Added one by one, 1e16 + 1 + 1 loses both ones."""
    expected = mean_factor([10000000000000002.0], 54)
    assert mean_factor([1e16, 1.0, 1.0], 54) == mean_factor([1.0, 1e16, 1.0], 54) == expected
    assert mean_factor([1e16], 54) != expected


MEANS = [
    [1e-12, 1e-12, 3e-12],
    [1e-300, 2e-300, 1e-300],
    [5e-324, 5e-324, 1e-323],
    [1e300, 5e307, 1.7e308],
    [1.7e308, 1.7e308, 1.7e308],
    [1e-300, 1.0, 1e300],
    [1e-20, 1.0, 0.1],
    [0.0, 1e-12, 1e-12],
    [0.0, 0.0, 1e19],
    [0.1, 0.7, 0.2],
]


@pytest.mark.parametrize("weights", MEANS, ids=str)
def test_weights_of_any_size_give_the_mean(weights):
    """To 1e-12 of the largest delta, computed in fractions."""
    deltas = np.array([[0.621, -0.1, 0.0], [0.341, 0.7, 1.0], [-0.25, 0.3, -1.0]])
    exponent = scale_exponent(weights)
    total = summed([(delta, weight) for delta, weight in zip(deltas, weights, strict=True)], np.zeros(3), exponent, 3)
    got = total * mean_factor(weights, exponent)
    parts = [Fraction(weight) / sum(map(Fraction, weights)) for weight in weights]
    exact = [sum(p * Fraction(float(d)) for p, d in zip(parts, column, strict=True)) for column in deltas.T]
    assert got == pytest.approx([float(value) for value in exact], rel=0, abs=1e-12)


def test_users_of_equal_weight_count_the_same_whatever_the_weight():
    deltas = [np.array([0.621], np.float32), np.array([0.061], np.float32)]
    for weight in (1e-300, 1e-12, 0.5, 1.0, 1e18, 1e300):
        exponent = scale_exponent([weight, weight])
        total = summed([(delta, weight) for delta in deltas], np.zeros(1, np.float32), exponent, 1)
        assert total[0] * mean_factor([weight, weight], exponent) == pytest.approx(0.341, abs=1e-8)


def test_a_weight_of_zero_adds_nothing_and_lets_no_nan_by():
    old = np.zeros(2)
    sums = make_sums(2)
    exact = ExactSum(sums, 2, 0)
    add(exact, [1.0, -1e100], old, 0.0)
    add(exact, [1.0, 0.5], old, 0.5)
    assert sums.settle("w").tolist() == [2**47, 2**46]
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(BadInput, match="uid 'ann': NaN or infinity"):
            add(exact, [1.0, bad], old, 0.0)


def test_sums_start_from_nothing_whatever_their_memory_held():
    assert summed([(np.full(SHAPE, 6.0), 1)], np.zeros(SHAPE), FRACTION_BITS).tolist() == [[6, 6, 6], [6, 6, 6]]
    assert summed([(np.zeros(SHAPE), 1)], np.zeros(SHAPE), FRACTION_BITS).tolist() == [[0, 0, 0], [0, 0, 0]]
    sums = make_sums()
    ExactSum(sums, 1, 0)
    assert not sums.settle("w").any()


def test_what_a_user_trained_is_put_back_for_the_next():
    new, old = np.arange(6.0).reshape(SHAPE), np.ones(SHAPE)
    sums = make_sums()
    exact = ExactSum(sums, 2, FRACTION_BITS)
    exact.take("w", new, old, 1.0, "ann")
    assert new.tolist() == old.tolist()
    new[1] = 5.0
    exact.take("w", new, old, 1.0, "bob", np.array([1]))
    assert new.tolist() == old.tolist()
    assert sums.settle("w").tolist() == [[-1, 0, 1], [6, 7, 8]]


@pytest.mark.parametrize("rows", [None, np.array([1, 0])])
def test_a_zero_is_put_back_with_its_sign(rows):
    new, old = np.full(SHAPE, -0.0), np.zeros(SHAPE)
    ExactSum(make_sums(), 1, 0).take("w", new, old, 1.0, "ann", rows)
    assert new.tobytes() == old.tobytes()


def test_sums_look_like_the_parameters_but_hold_int64_and_a_mark_a_row():
    shared = {"w": TensorSpec("float32", SHAPE), "scale": TensorSpec("float64", ())}
    assert sum_specs(shared) == {
        "sum/w": TensorSpec("int64", SHAPE),
        "sum/scale": TensorSpec("int64", ()),
        "touched/w": TensorSpec("bool", (2,)),
        "touched/scale": TensorSpec("bool", (1,)),
    }


def test_a_number_and_an_empty_array_are_summed_too():
    assert summed([(np.array(2.0), 1), (np.array(5.0), 1)], np.array(1.0), FRACTION_BITS, ()).tolist() == 5
    assert summed([(np.zeros((0, 4)), 1)], np.zeros((0, 4)), FRACTION_BITS, (0, 4)).shape == (0, 4)


def test_a_bound_holds_for_touched_rows_of_all_blocks_and_for_no_others():
    total, touched = np.zeros((400, 256), np.int64), np.arange(400) % 2 == 1  # 200 rows of 256: more than one block
    total[398, 0] = 1 << 60
    sums = Sums({"w": total}, {"w": touched})
    sums.check(9)
    total[399, 255] = -10
    with pytest.raises(BadInput, match="'w': a sum of 10 is beyond the 9"):
        sums.check(9)
    sums.check(10)


def test_whole_sums_are_touched_everywhere():
    sums = Sums.whole({"w": np.arange(6).reshape(SHAPE)})
    assert sums.touched["w"].tolist() == [True, True]
    assert sums.settle("w").tolist() == [[0, 1, 2], [3, 4, 5]]


# -- properties --------------------------------------------------------------------

values = hnp.arrays(np.float32, SHAPE, elements=st.floats(-100, 100, width=32))
users = st.lists(st.tuples(values, st.integers(1, 60)), min_size=1, max_size=6)


@quick
@given(users, values, st.data())
def test_any_split_over_any_accumulators_in_any_order_gives_the_same_integers(cohort, old, data):
    exponent = scale_exponent([weight for _, weight in cohort])
    parts = [make_sums() for _ in range(data.draw(st.integers(1, 4)))]
    accumulators = [ExactSum(part, len(cohort), exponent) for part in parts]
    for i in data.draw(st.permutations(range(len(cohort)))):
        accumulator = accumulators[data.draw(st.integers(0, len(parts) - 1))]
        add(accumulator, cohort[i][0], old, float(cohort[i][1]), str(i))
    assert np.array_equal(sum(part.settle("w") for part in parts), summed(cohort, old, exponent))


@quick
@given(users, values, st.data())
def test_saying_which_rows_were_touched_changes_nothing(cohort, old, data):
    """Every user trains some rows; some say which, in any order, the others go through all."""
    trained, said = [], []
    for new, weight in cohort:
        rows = data.draw(st.lists(st.integers(0, SHAPE[0] - 1), unique=True))
        kept = old.copy()
        kept[rows] = new[rows]
        trained.append((kept, weight))
        more = data.draw(st.booleans())
        said.append(None if data.draw(st.booleans()) else np.array(range(SHAPE[0]) if more else rows, np.intp))
    exponent = scale_exponent([weight for _, weight in cohort])
    sums = make_sums()
    exact = ExactSum(sums, len(cohort), exponent)
    for i, ((new, weight), rows) in enumerate(zip(trained, said, strict=True)):
        mine = new.copy()
        exact.take("w", mine, old, float(weight), str(i), rows)
        assert np.array_equal(mine, old)
    touched = sums.touched["w"].tolist()
    known = [rows for rows in said if rows is not None]
    assert touched == [len(known) < len(said) or any(row in rows for rows in known) for row in range(SHAPE[0])]
    assert np.array_equal(sums.settle("w"), summed(trained, old, exponent))


@quick
@given(users, values)
def test_the_mean_agrees_with_an_exact_reference_to_the_grid(cohort, old):
    """Each float32 delta is rounded by half a step at most; a step is 2**(e - 48) / W <= 2**-47 of the mean."""
    weight = sum(w for _, w in cohort)
    weights = [float(w) for _, w in cohort]
    exponent = scale_exponent(weights)
    got = summed(cohort, old, exponent) * mean_factor(weights, exponent)
    for place in np.ndindex(SHAPE):
        exact = sum(w * Fraction(float(new[place] - old[place])) for new, w in cohort) / weight
        assert abs(Fraction(float(got[place])) - exact) <= len(cohort) * Fraction(1, 2**48) + abs(exact) * 2**-52


def test_a_mean_of_many_blocks_agrees_with_a_float64_reference():
    rng = np.random.default_rng(0)
    size, weights = 2 * BLOCK + 17, [3.0, 250.0, 41.0]
    old = rng.normal(size=size).astype(np.float32)
    news = [old + rng.normal(scale=0.1, size=size).astype(np.float32) for _ in weights]
    exponent = scale_exponent(weights)
    total = summed(list(zip(news, weights, strict=True)), old, exponent, size)
    reference = sum(w * (new - old).astype(np.float64) for new, w in zip(news, weights, strict=True)) / 294
    np.testing.assert_allclose(total * mean_factor(weights, exponent), reference, rtol=0, atol=3 * 2.0**-48)


positive = st.floats(0, allow_infinity=False, exclude_min=True)


@quick
@given(st.lists(positive, min_size=1, max_size=6))
def test_the_exponent_holds_the_weights_and_is_the_least(weights):
    """Up to the rounding of the sum."""
    exponent, total = scale_exponent(weights), sum(map(Fraction, weights))
    assert Fraction(2) ** exponent >= total * (1 - Fraction(1, 2**52))
    assert Fraction(2) ** (exponent - 1) < total * (1 + Fraction(1, 2**52))


@quick
@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=6))
def test_the_exponent_of_whole_numbers_is_the_least_that_is_not_negative(examples):
    exponent = scale_exponent([float(count) for count in examples])
    assert 2**exponent >= sum(examples)
    assert exponent == 0 or 2 ** (exponent - 1) < sum(examples)


@quick
@given(st.lists(st.tuples(values, positive | st.just(0.0)), max_size=5), values, positive, values)
def test_any_weights_give_the_mean_to_the_grid(cohort, old, weight, new):
    cohort = [*cohort, (new, weight)]
    weights = [w for _, w in cohort]
    exponent = scale_exponent(weights)
    got = summed(cohort, old, exponent) * mean_factor(weights, exponent)
    for place in np.ndindex(SHAPE):
        terms = [(Fraction(w), Fraction(float(new[place] - old[place]))) for new, w in cohort]
        exact = sum(w * d for w, d in terms) / sum(w for w, _ in terms)
        largest = max(abs(d) for _, d in terms)
        assert abs(Fraction(float(got[place])) - exact) <= len(cohort) * Fraction(1, 2**48) + largest * 2**-50


# -- the two ways of rounding ------------------------------------------------------

BORDER = [0.5, 1.5, 2.5, 0.49999999999999994, 2.0**50 + 0.5, 2.0**51 - 0.25, 2.0**51 - 0.5, 2.0**51 - 0.75, 2.0**51 - 1]


def rounded(deltas, *more):
    """Integers of float64 deltas on a grid of step 1; with `more` in their block."""
    deltas = np.array([*deltas, *more])
    first = summed([(deltas, 1)], np.zeros_like(deltas), FRACTION_BITS, deltas.size)
    sums = make_sums(deltas.size)
    exact = ExactSum(sums, 1, FRACTION_BITS)
    add(exact, np.ones_like(deltas), np.ones_like(deltas))
    add(exact, deltas, np.zeros_like(deltas))  # not the first in its accumulator
    assert np.array_equal(sums.settle("w"), first)
    return first[: len(deltas) - len(more)].tolist()


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
        add(ExactSum(make_sums(BLOCK + 9), 1, 0), new, np.zeros(BLOCK + 9, np.float32))
    with pytest.raises(BadInput, match=r"uid 'ann': NaN or infinity in the delta of parameter 'w'"):
        add(ExactSum(make_sums(BLOCK + 9), 1, 0), new, np.zeros(BLOCK + 9, np.float32), rows=np.array([place]))


def test_infinity_before_and_after_training_is_refused_too():
    """Infinity minus infinity is NaN."""
    with pytest.raises(BadInput, match="uid 'ann': NaN or infinity"):
        add(ExactSum(make_sums(2), 1, 0), np.array([np.inf, 0], np.float32), np.array([np.inf, 0], np.float32))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_delta_beyond_what_the_sum_holds_is_refused(sign):
    """Exponent 0, cohort 2: 2**62 / 2 on a grid of 2**48 leaves deltas below 2**13."""
    add(ExactSum(make_sums(1), 2, 0), [sign * 8191.0], [0.0])
    with pytest.raises(BadInput, match=r"uid 'ann': a delta of 8192 in parameter 'w' is beyond the 8192"):
        add(ExactSum(make_sums(1), 2, 0), [sign * 8192.0], [0.0])


def test_a_whole_cohort_at_the_limit_does_not_overflow():
    largest = np.nextafter(2.0**14 / 3, 0)
    total = summed([(np.array([largest]), 1)] * 3, np.array([0.0]), 0, 1)
    assert total[0] == 3 * int(np.rint(largest * 2.0**48))
