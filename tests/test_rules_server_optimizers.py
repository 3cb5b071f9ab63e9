"""scheduler/rules/server_optimizers.py against steps computed by hand (Reddi et al. 2021, Algorithm 2)."""

import numpy as np
import pytest

from protos.errors import BadInput
from scheduler.rules.exact_sum import BLOCK, Sums
from scheduler.rules.server_optimizers import (
    SERVER_OPTIMIZERS,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    ServerOptimizer,
    Sum,
)
from scheduler.rules.step import Step
from scheduler.state.server_step import Slots, move

# Means below are multiples of 2**-10, so the integer sums hold them exactly.
FACTOR = 2.0**-10

MAKERS = {
    "fedavg": lambda: FedAvg(0.7),
    "sum": lambda: Sum(0.3),
    "fedavgm": lambda: FedAvgM(0.5, 0.8),
    "fedadam": lambda: FedAdam(0.02),
    "fedyogi": lambda: FedYogi(0.02),
    "fedadagrad": lambda: FedAdagrad(0.1, beta1=0.5),
}


class Server:
    """An optimizer, and its slots."""

    def __init__(self, optimizer):
        self.optimizer, self.slots = optimizer, Slots()

    def apply(self, name, param, sums, factor, cohort_size):
        at = Step(7, "20200101", 1, 0, cohort_size, 100)
        move(name, param, sums, factor, self.optimizer, self.slots, at)

    def state_dict(self):
        return self.slots.state_dict()


def step(server, param, mean, cohort_size=1, name="w"):
    server = server if isinstance(server, Server) else Server(server)
    server.apply(name, param, [Sums.whole({name: grid(mean, param.shape)})], FACTOR, cohort_size)


def grid(mean, shape):
    return np.rint(np.asarray(mean) / FACTOR).astype(np.int64).reshape(shape)


def two_steps(optimizer, first, second, cohort_size=1):
    """x after each of two steps from x = 1."""
    server, x = Server(optimizer), np.array([1.0])
    step(server, x, [first], cohort_size)
    middle = x[0]
    step(server, x, [second], cohort_size)
    return [middle, x[0]]


def near(*values):
    return pytest.approx(values, rel=1e-14)


# -- by hand -----------------------------------------------------------------------


def test_fedavg_adds_the_mean_times_its_rate():
    """1 + 2 * 0.5 = 2; 2 + 2 * -0.25 = 1.5."""
    assert two_steps(FedAvg(2.0), 0.5, -0.25) == near(2.0, 1.5)


def test_sum_adds_every_users_delta():
    """4 users: 1 + 0.5 * (4 * 0.5) = 2; 2 + 0.5 * (4 * -0.25) = 1.5."""
    assert two_steps(Sum(0.5), 0.5, -0.25, cohort_size=4) == near(2.0, 1.5)


def test_fedavgm_keeps_momentum():
    """m = 0.5: x = 1 + 2 * 0.5 = 2.  m = 0.9 * 0.5 - 0.25 = 0.2: x = 2 + 2 * 0.2 = 2.4."""
    assert two_steps(FedAvgM(2.0, 0.9), 0.5, -0.25) == near(2.0, 2.4)


def test_fedadagrad():
    """tau 0.5, so v starts at 0.25; beta1 0.

    d =  0.5:  m =  0.5,  v = 0.25 + 0.25 = 0.5,     x = 1 + 0.1 * 0.5 / (sqrt(0.5) + 0.5) = 1.0414213562373095
    d = -0.25: m = -0.25, v = 0.5 + 0.0625 = 0.5625, x = ... - 0.1 * 0.25 / (0.75 + 0.5) = ... - 0.02
    """
    expected = near(1.0414213562373095, 1.0214213562373095)
    assert two_steps(FedAdagrad(0.1, beta1=0.0, tau=0.5), 0.5, -0.25) == expected


def test_fedadam():
    """tau 0.5, beta1 0.9, beta2 0.75.

    d =  0.5:  m = 0.1 * 0.5 = 0.05, v = 0.75 * 0.25 + 0.25 * 0.25 = 0.25, x = 1 + 0.1 * 0.05 / (0.5 + 0.5) = 1.005
    d = -0.25: m = 0.9 * 0.05 - 0.1 * 0.25 = 0.02, v = 0.75 * 0.25 + 0.25 * 0.0625 = 0.203125,
               x = 1.005 + 0.1 * 0.02 / (0.45069390943299864 + 0.5) = 1.005 + 0.0021037265308588
    """
    assert two_steps(FedAdam(0.1, 0.9, 0.75, 0.5), 0.5, -0.25) == near(1.005, 1.0071037265308588)


def test_fedyogi():
    """tau 0.5, beta1 0.9, beta2 0.75; v - d^2 changes its sign from step to step.

    d =  1:   m = 0.1, v = 0.25 - 0.25 * 1 * sign(0.25 - 1) = 0.5,
              x = 1 + 0.1 * 0.1 / (sqrt(0.5) + 0.5) = 1.0082842712474619
    d = -0.5: m = 0.09 - 0.05 = 0.04, v = 0.5 - 0.25 * 0.25 * sign(0.5 - 0.25) = 0.4375,
              x = ... + 0.1 * 0.04 / (0.6614378277661477 + 0.5) = ... + 0.0034440069923446
    """
    expected = near(1.0082842712474619, 1.0117282782398065)
    assert two_steps(FedYogi(0.1, 0.9, 0.75, 0.5), 1.0, -0.5) == expected


def test_the_three_differ_in_the_second_moment_alone():
    """With d^2 below v, a step: Adagrad v + d^2, Adam b2 v + (1 - b2) d^2, Yogi v - (1 - b2) d^2."""
    held = {}
    for name, optimizer in (
        ("adagrad", FedAdagrad(0.1, 0.9, 1.0)),
        ("adam", FedAdam(0.1, 0.9, 0.75, 1.0)),
        ("yogi", FedYogi(0.1, 0.9, 0.75, 1.0)),
    ):
        server = Server(optimizer)
        step(server, np.array([0.0]), [0.5])
        assert server.state_dict()["w/m"] == near(0.05)
        held[name] = server.state_dict()["w/v"][0]
    assert held == {"adagrad": 1.25, "adam": 0.8125, "yogi": 0.9375}


def test_parameters_keep_their_dtype_and_shape_and_are_moved_in_place():
    param = np.array([[1.0, 2.0]], np.float32)
    step(FedAvg(1.0), param, [[0.25, -0.5]])
    assert param.dtype == np.float32
    assert param.tolist() == [[1.25, 1.5]]


def test_only_sum_counts_every_user_once():
    assert sorted(SERVER_OPTIMIZERS) == sorted(MAKERS)
    assert [name for name, kind in SERVER_OPTIMIZERS.items() if not kind.weighted] == ["sum"]
    assert all(type(MAKERS[name]()) is kind for name, kind in SERVER_OPTIMIZERS.items())


# -- state and blocks --------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_a_restored_optimizer_continues_to_the_bit(name):
    rng = np.random.default_rng(1)
    means = rng.normal(size=(4, 6))
    whole, x = Server(MAKERS[name]()), np.ones((2, 3), np.float32)
    for mean in means:
        step(whole, x, mean, 3, "layer/w")

    before, y = Server(MAKERS[name]()), np.ones((2, 3), np.float32)
    for mean in means[:2]:
        step(before, y, mean, 3, "layer/w")
    after = Server(MAKERS[name]())
    after.slots.load_state_dict({key: value.copy() for key, value in before.state_dict().items()})
    for mean in means[2:]:
        step(after, y, mean, 3, "layer/w")

    assert y.tobytes() == x.tobytes()
    assert {k: v.tobytes() for k, v in after.state_dict().items()} == {
        k: v.tobytes() for k, v in whole.state_dict().items()
    }


@pytest.mark.parametrize("name", MAKERS)
def test_state_is_kept_by_parameter(name):
    optimizer = Server(MAKERS[name]())
    alone, x, y = Server(MAKERS[name]()), np.zeros(1), np.zeros(1)
    for mean in ([0.5], [0.25]):
        step(optimizer, x, mean, 1, "a")
        step(optimizer, np.zeros(1), [8.0], 1, "b")
        step(alone, y, mean, 1, "a")
    assert x == y


@pytest.mark.parametrize("name", MAKERS)
def test_how_parameters_are_cut_does_not_matter(name):
    rng = np.random.default_rng(2)
    size = 2 * BLOCK + 7
    x = rng.normal(size=size).astype(np.float32)
    cuts = [slice(0, 5), slice(5, BLOCK + 1), slice(BLOCK + 1, size)]
    pieces = [x[cut].copy() for cut in cuts]
    whole, cut_up = Server(MAKERS[name]()), Server(MAKERS[name]())
    for mean in rng.normal(size=(2, size)):
        step(whole, x, mean, 2)
        for number, (piece, cut) in enumerate(zip(pieces, cuts, strict=True)):
            step(cut_up, piece, mean[cut], 2, f"w{number}")
    assert x.tobytes() == b"".join(piece.tobytes() for piece in pieces)


@pytest.mark.parametrize("name", MAKERS)
def test_any_number_of_accumulators_and_untouched_rows_make_the_same_step(name):
    """Rows 0 and 2 are touched in one accumulator, row 2 in the other; the rest is what an earlier round left."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4, 3)).astype(np.float32)
    y = x.copy()
    whole, split = Server(MAKERS[name]()), Server(MAKERS[name]())
    for _ in range(2):
        totals = rng.integers(-(2**12), 2**12, size=(2, 4, 3))
        touched = np.array([[True, False, True, False], [False, False, True, False]])
        step_of = np.where(touched[..., None], totals, 0).sum(axis=0)
        whole.apply("w", x, [Sums.whole({"w": step_of})], FACTOR, 2)
        parts = [Sums({"w": t.copy()}, {"w": marks.copy()}) for t, marks in zip(totals, touched, strict=True)]
        split.apply("w", y, parts, FACTOR, 2)
        assert y.tobytes() == x.tobytes()


def test_touched_rows_of_many_blocks_move_and_no_others():
    param, totals = np.ones((400, 256), np.float32), np.full((400, 256), 3)
    touched = np.arange(400) % 3 != 0  # 266 rows of 256: more than two blocks
    Server(FedAvg(1.0)).apply("w", param, [Sums({"w": totals}, {"w": touched})], 0.5, 1)
    assert (param[touched] == 2.5).all()
    assert (param[~touched] == 1.0).all()


@pytest.mark.parametrize("rate", [1e-46, 1.0])
def test_a_parameter_never_becomes_minus_zero(rate):
    """-0.0 would turn into 0.0 in a row that is touched by a zero delta, and stay in one that is not."""
    param = np.zeros(2, np.float32)
    step(FedAvg(rate), param, [-1.0, -0.0] if rate != 1.0 else [-0.0, 0.0])
    assert not np.signbit(param).any()


# -- refusals ----------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e308, 1.7e308])
def test_a_step_that_is_not_finite_is_refused(rate):
    param = np.ones(3)
    with np.errstate(all="ignore"), pytest.raises(BadInput, match="made parameter 'w' NaN or infinite"):
        step(FedAvg(rate), param, [0.0, 100.0, 0.0])
    assert np.isfinite(param).all()


def test_a_step_beyond_the_parameters_own_dtype_is_refused():
    """1e38 + 1e36 * 400 is finite in float64 and infinite in float32."""
    param = np.array([1e38], np.float32)
    with np.errstate(all="ignore"), pytest.raises(BadInput, match="made parameter 'w' NaN or infinite"):
        step(FedAvg(1e36), param, [400.0])


# -- an optimizer of the user's own ------------------------------------------------


class Averaging(ServerOptimizer):
    """Moves by the running mean of all means so far."""

    name = "averaging"
    slots = ("steps", "sum")

    def initial_slot(self, slot):
        return 1.0 if slot == "sum" else 0.0

    def step(self, x, mean, slots, at):
        slots["steps"] += 1
        slots["sum"] += mean
        return x + self.learning_rate * slots["sum"] / slots["steps"]


def test_an_optimizer_of_ones_own_needs_slots_and_a_step():
    """Sum starts at 1: 1 + (1 + 0.5) / 1 = 2.5; 2.5 + (1.5 - 0.25) / 2 = 3.125."""
    assert two_steps(Averaging(1.0), 0.5, -0.25) == [2.5, 3.125]
