"""scheduler/rules/algorithm.py, filters.py, step.py and state/server_step.py: what is nearly right is named."""

import numpy as np
import pytest

from protos.codec import TensorSpec
from protos.errors import BadInput
from scheduler import Algorithm, Filter, ServerRule, Shapes, Step
from scheduler.rules.exact_sum import BLOCK, Sums
from scheduler.state.server_step import Slots, filters_on_mean, move
from trainer import UserDP

AT = Step(7, "20200101", 1, 0, 2, 100, {"tau": (6.0, 4.0)})


def moved(rule, shape=(3,), name="w", filters=(), at=AT):
    array = np.zeros(shape)
    sums = [Sums.whole({name: np.zeros(shape, np.int64)})]
    move(name, array, sums, 1.0, rule, Slots(), at, filters_on_mean(filters, name, at))
    return array


class Rule(ServerRule):
    def __init__(self, step):
        self._step = step

    def step(self, x, mean, slots, at):
        return self._step(x, mean, at)


@pytest.mark.parametrize(
    ("name", "near"), [("personalize", "personalise"), ("user_states", "user_state"), ("weights", "weight")]
)
def test_a_misspelt_attribute_of_an_algorithm_is_refused(name, near):
    with pytest.raises(BadInput, match=f"Mine.{name}: did you mean '{near}'"):
        type("Mine", (Algorithm,), {name: None})


def test_a_misspelt_attribute_of_a_filter_is_refused_and_others_are_not():
    with pytest.raises(BadInput, match=r"Mine\.on_users: did you mean 'on_user'"):
        type("Mine", (Filter,), {"on_users": None})
    type("Mine", (Filter,), {"norm": 1.0, "_on_users": None, "ratio_of": None})


def test_a_weight_is_one_of_two():
    with pytest.raises(BadInput, match=r"Mine\.weight is 'equal'; it is 'user' or 'one'"):
        type("Mine", (Algorithm,), {"weight": "equal"})


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda x, mean, at: None, "Rule.step returns None for 'w'; it must be"),
        (lambda x, mean, at: 1.0, "Rule.step returns 1.0 for 'w'; it must be"),
        (lambda x, mean, at: (x + mean)[:1], r"Rule.step returns an array of shape \[1\] for 'w'; it must be \[3\]"),
    ],
)
def test_a_step_must_return_the_block(step, said):
    with pytest.raises(BadInput, match=said):
        moved(Rule(step))


def test_random_numbers_of_a_rule_differ_by_block_array_and_round_and_by_nothing_else():
    noise = Rule(lambda x, mean, at: x + at.rng("noise").normal(size=x.size))
    size = BLOCK + 100
    one = moved(noise, (size,))
    assert len(set(one)) == size
    assert not set(one) & set(moved(noise, (size,), name="v"))
    assert moved(noise, (size,)).tobytes() == one.tobytes()
    later = Step(7, "20200101", 2, 1, 2, 100)
    assert not set(one) & set(moved(noise, (size,), at=later))
    # Two uses of one rule do not meet either.
    two = moved(Rule(lambda x, mean, at: at.rng("a").normal(size=x.size) - at.rng("b").normal(size=x.size)))
    assert two.all()


def test_a_scalar_that_nobody_has_said_is_named():
    assert AT.mean("tau") == 1.5
    with pytest.raises(BadInput, match="date 20200101, round 1: no user has said the scalar 'sigma'; there are: tau"):
        AT.mean("sigma")


class Bad(Filter):
    def __init__(self, how):
        self.how = how

    def on_mean(self, name, mean, at, rng):
        if self.how == "nan":
            mean += np.nan
        return mean if self.how == "returns" else None


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("nan", "Bad.on_mean made the mean of parameter 'w' NaN or infinite"),
        ("returns", "Bad.on_mean returns something; it must change the mean in place"),
    ],
)
def test_what_a_filter_makes_of_the_mean_is_looked_at(how, said):
    with pytest.raises(BadInput, match=said):
        moved(Rule(lambda x, mean, at: x + mean), filters=[Bad(how)])


def test_filters_act_on_the_mean_in_reverse():
    class Add(Filter):
        def on_mean(self, name, mean, at, rng):
            mean += 1

    class Double(Filter):
        def on_mean(self, name, mean, at, rng):
            mean *= 2

    plain = Rule(lambda x, mean, at: x + mean)
    assert moved(plain, filters=[Double(), Add()]).tolist() == [2.0, 2.0, 2.0]
    assert moved(plain, filters=[Add(), Double()]).tolist() == [1.0, 1.0, 1.0]


def test_noise_on_buffers_is_refused():
    spec = TensorSpec("float32", (2,))
    UserDP(1.0).check(Shapes({"w": spec}, {"w": spec}))
    with pytest.raises(BadInput, match=r"dp: noise on buffers makes no sense; .*--private norm\._mean"):
        UserDP(1.0).check(Shapes({"w": spec, "norm._mean": spec}, {"w": spec}))
