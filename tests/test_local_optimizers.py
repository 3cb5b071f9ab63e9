"""Local optimizers against plain loops; with algorithms, kept and fresh; and schedules."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from one_shard import SIZES, OneShard
from tiny_task import TinyTrainer

from protos.errors import BadInput
from scheduler import (
    ALGORITHMS,
    LOCAL_OPTIMIZERS,
    LR_SCHEDULES,
    SERVER_OPTIMIZERS,
    Algorithm,
    LocalRule,
    ServerRule,
    Step,
)
from scheduler.rules.algorithm import check_local_optimizer
from scheduler.rules.local_optimizers import RuleState
from scheduler.rules.schedules import Scheduled, check_takes_rate
from simulator.shards import jobs
from trainer.local_sgd import LocalSGD
from trainer.local_steps import LocalSteps

RATE, START = 0.1, np.array([1.0, -2.0, 0.5])
GRADIENTS = [np.array([0.3, -0.1, 2.0]), np.array([-1.0, 0.2, 0.0]), np.array([0.5, 0.5, 0.5])]


def sgd(mu, w, nesterov):
    x, b = START.copy(), np.zeros(3)
    for g in GRADIENTS:
        g = g + w * x
        b = mu * b + g
        x = x - RATE * (g + mu * b if nesterov else b)
    return x


def adam(b1, b2, eps, coupled, apart):
    x, m, v = START.copy(), np.zeros(3), np.zeros(3)
    for t, g in enumerate(GRADIENTS, 1):
        g = g + coupled * x
        x = x - RATE * apart * x
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        x = x - RATE * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return x


ORACLES = {
    "sgd(weight_decay=0.1)": sgd(0, 0.1, False),
    "sgd(momentum=0.9)": sgd(0.9, 0, False),
    "sgd(momentum=0.9, weight_decay=0.1)": sgd(0.9, 0.1, False),
    "sgd(momentum=0.9, weight_decay=0.1, nesterov=True)": sgd(0.9, 0.1, True),
    "adam": adam(0.9, 0.999, 1e-8, 0, 0),
    "adam(beta1=0.5, beta2=0.9, epsilon=0.1, weight_decay=0.1)": adam(0.5, 0.9, 0.1, 0.1, 0),
    "adamw": adam(0.9, 0.999, 1e-8, 0, 0.01),
    "adamw(beta2=0.9, weight_decay=0.5)": adam(0.9, 0.9, 1e-8, 0, 0.5),
}


class Parameters:
    """What `LocalSteps` asks of a model, with parameters of 3 and of many elements, and one without a gradient."""

    def __init__(self, repeat):
        import paddle

        self.small = paddle.to_tensor(START.astype("float32"), stop_gradient=False)
        self.large = paddle.to_tensor(np.tile(START, (repeat, 1)).astype("float32"), stop_gradient=False)
        self.idle = paddle.to_tensor(START.astype("float32"), stop_gradient=False)

    def named_parameters(self):
        return [("small", self.small), ("large", self.large), ("idle", self.idle)]


@pytest.mark.parametrize("written", ORACLES)
def test_three_steps_are_those_of_a_plain_loop(written):
    """Of 60,000 elements in several blocks too; what has no gradient stays as it is, whatever decays."""
    import paddle

    model, state = Parameters(20_000), RuleState()
    steps = LocalSteps(model, LOCAL_OPTIMIZERS.make(written), RATE, None, state)
    for g in GRADIENTS:
        loss = (model.small * paddle.to_tensor(g.astype("float32"))).sum()
        (loss + (model.large * paddle.to_tensor(g.astype("float32"))).sum()).backward()
        steps.step()
        steps.clear_grad()
        assert model.small.grad is None
    np.testing.assert_allclose(model.small.numpy(), ORACLES[written], rtol=2e-6)
    np.testing.assert_array_equal(model.large.numpy(), np.tile(model.small.numpy(), (20_000, 1)))
    np.testing.assert_array_equal(model.idle.numpy(), START.astype("float32"))
    assert state.arrays["small/steps"].tolist() == [3]


def test_gradients_are_clipped_before_the_optimizer():
    """Norm of (3, 4) is 5, clipped to 1: (0.6, 0.8); then decay: x - r (g + w x)."""
    import paddle

    x = paddle.to_tensor([1.0, 1.0], stop_gradient=False)
    model = SimpleNamespace(named_parameters=lambda: [("x", x)])
    (x * paddle.to_tensor([3.0, 4.0])).sum().backward()
    LocalSteps(model, LOCAL_OPTIMIZERS.make("sgd(weight_decay=0.5)"), RATE, 1.0, RuleState()).step()
    np.testing.assert_allclose(x.numpy(), [1 - 0.1 * (0.6 + 0.5), 1 - 0.1 * (0.8 + 0.5)], rtol=1e-6)


def test_plain_sgd_makes_no_step_without_gradients():
    """Of a large parameter either, which Paddle updates."""
    import paddle

    layer = paddle.nn.Linear(200, 100)
    before = layer.weight.numpy().copy()
    sgd = LocalSGD(layer, 1.0, 5.0)
    sgd.step()
    np.testing.assert_array_equal(layer.weight.numpy(), before)
    layer(paddle.ones([1, 200])).sum().backward()
    sgd.step()
    assert not np.array_equal(layer.weight.numpy(), before)


def test_sparse_gradients_are_made_dense_and_decay_reaches_all_rows():
    import paddle

    layer = paddle.nn.Embedding(4, 2, sparse=True)
    before = layer.weight.numpy().copy()
    layer(paddle.to_tensor([1, 1, 3])).sum().backward()
    assert layer.weight.grad.is_selected_rows()
    LocalSteps(layer, LOCAL_OPTIMIZERS.make("sgd(weight_decay=0.1)"), RATE, None, RuleState()).step()
    gradient = np.array([[0], [2], [0], [1]]) + 0.1 * before
    np.testing.assert_allclose(layer.weight.numpy(), before - RATE * gradient, rtol=1e-6)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("sgd(momentum=1.0)", "momentum is 1; it must be from 0 to less than 1"),
        ("sgd(nesterov=True)", "nesterov=True does nothing without momentum"),
        ("sgd(weight_decay=0.1, keep=True)", "keep=True does nothing without momentum"),
        ("sgd(weight_decay=-1.0)", "weight_decay is -1; it must be 0 or more"),
        ("adam(epsilon=0.0)", "epsilon is 0; it must be above 0"),
        ("adamw(beta2=-0.1)", "beta2 is -0.1; it must be from 0 to less than 1"),
        ("adagrad", "there is no local optimizer 'adagrad'; there are sgd, adam, adamw"),
    ],
)
def test_what_cannot_be_is_refused(written, said):
    with pytest.raises(BadInput) as caught:
        LOCAL_OPTIMIZERS.make(written)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_how_far_steps_go():
    """Plain: tau.  Momentum: (tau - mu (1 - mu^tau) / (1 - mu)) / (1 - mu) of Wang et al. 2020, here 1 + 1.5 + 1.75."""
    assert LOCAL_OPTIMIZERS.make("sgd(weight_decay=0.1)").reach(3) == 3.0
    assert LOCAL_OPTIMIZERS.make("sgd(momentum=0.5)").reach(3) == 4.25
    assert LOCAL_OPTIMIZERS.make("sgd(momentum=0.5, nesterov=True)").reach(2) == 1.5 + 1.75
    mu, tau = 0.9, 17
    paper = (tau - mu * (1 - mu**tau) / (1 - mu)) / (1 - mu)
    assert LOCAL_OPTIMIZERS.make("sgd(momentum=0.9)").reach(tau) == pytest.approx(paper, rel=1e-12)
    assert LOCAL_OPTIMIZERS.make("sgd(momentum=0.9, keep=True)").reach(3) is None
    assert LOCAL_OPTIMIZERS.make("adam").reach(3) is None


# -- in a shard --------------------------------------------------------------------


def trainer(written="sgd", schedule="constant", **numbers):
    return TinyTrainer(**{"batch_size": 4, "lr": 0.1, "local_optimizer": written, "lr_schedule": schedule, **numbers})


def shard(folder, written="sgd", schedule="constant", algorithm="fedavg", kind=trainer, **numbers):
    folder.mkdir()
    return OneShard(folder, kind(written, schedule, **numbers), ("out.bias",), algorithm=ALGORITHMS.make(algorithm))


def by_bytes(sums):
    return {name: value.tobytes() for name, value in sums.items()}


def test_plain_sgd_is_as_it_was_however_it_is_written(tmp_path):
    one, other = (shard(tmp_path / n, w) for n, w in (("one", "sgd"), ("other", "sgd(momentum=0.0)")))
    assert other.shard._is.trainer.local_rule is None
    assert by_bytes(one.do(jobs.TrainShare, "abc")[1]) == by_bytes(other.do(jobs.TrainShare, "abc")[1])


@pytest.mark.parametrize("written", ["sgd(momentum=0.9)", "adam"])
def test_fresh_or_kept(tmp_path, written):
    """Kept state makes the second round another, lies with the user, and depends on nobody else's turn."""
    comma = written.replace(")", ", ") if "(" in written else f"{written}("
    fresh, kept, other = (
        shard(tmp_path / n, w) for n, w in (("a", written), ("b", f"{comma}keep=True)"), ("c", f"{comma}keep=True)"))
    )
    first = fresh.do(jobs.TrainShare, "abc")
    assert by_bytes(kept.do(jobs.TrainShare, "abc")[1]) == by_bytes(first[1])
    other.do(jobs.TrainShare, "cab")
    for made in (fresh, kept, other):
        made.step = 1
    assert set(fresh.private_of("a")) == {"out.bias"}
    state = kept.private_of("b")
    assert np.frombuffer(state["state/optimizer/out.weight/steps"], "int64").tolist() == [3]
    assert "state/optimizer/out.bias/steps" in state
    second = kept.do(jobs.TrainShare, "ab")
    assert by_bytes(second[1]) == by_bytes(other.do(jobs.TrainShare, "ba")[1])
    assert by_bytes(second[1]) != by_bytes(fresh.do(jobs.TrainShare, "ab")[1])
    assert np.frombuffer(kept.private_of("b")["state/optimizer/out.weight/steps"], "int64").tolist() == [6]


def test_one_after_another_each_user_has_its_own_state(tmp_path):
    made = shard(tmp_path / "a", "adam(keep=True)")
    made.do(jobs.TrainInTurn, "ab")
    made.step = 1
    counts = [np.frombuffer(made.private_of(uid)["state/optimizer/out.weight/steps"], "int64")[0] for uid in "ab"]
    assert counts == [1, 3]


def test_a_test_that_trains_begins_with_nothing(tmp_path):
    """Its optimizer is none that an earlier training has left."""

    class Tunes(TinyTrainer):
        def evaluate_user(self, model, examples, user):
            assert self.make_optimizer(model)._arrays == {}
            return super().evaluate_user(model, examples, user)

    made = shard(tmp_path / "a", "sgd(momentum=0.9)", kind=lambda w, s: Tunes(local_optimizer=w, lr_schedule=s))
    made.do(jobs.TrainShare, "ab")
    made.step = 1
    made.do(jobs.EvaluateShare, "ab")


def test_a_training_that_does_not_ask_for_the_optimizer_is_named(tmp_path):
    class Own(TinyTrainer):
        def train_user(self, model, examples, user):
            return {}

    made = shard(tmp_path / "a", "adam", kind=lambda w, s: Own(local_optimizer=w, lr_schedule=s))
    with pytest.raises(BadInput, match=r"Own.train_user makes no step with what self.make_optimizer gives"):
        made.do(jobs.TrainShare, "a")


def test_rows_are_not_believed_with_another_optimizer(tmp_path):
    class Rows(TinyTrainer):
        def touched_rows(self, examples):
            raise AssertionError("asked")

    made = shard(tmp_path / "a", "adam", kind=lambda w, s: Rows(local_optimizer=w, lr_schedule=s))
    made.do(jobs.TrainShare, "a")


def test_fednova_divides_by_the_reach(tmp_path):
    """b makes 3 steps, d too, a one: with momentum 0.5 these go 4.25 and 1."""
    made = shard(tmp_path / "a", "sgd(momentum=0.5)", algorithm="fednova")
    plain = shard(tmp_path / "b", "sgd(momentum=0.5)")
    for uid, reach in (("a", 1.0), ("b", 4.25)):
        one, other = (each.do(jobs.TrainShare, uid)[1] for each in (made, plain))
        scale = np.max(np.abs(other["out.weight"]))
        np.testing.assert_allclose(one["out.weight"] / scale, other["out.weight"] / scale / reach, atol=1e-6)


def test_scaffolds_second_option_gives_means_of_gradients_with_momentum(tmp_path):
    """With lr so small that gradients stay the same in a user's one batch, c_i is that gradient, whatever momentum."""
    found = []
    for name, written in (("a", "sgd"), ("b", "sgd(momentum=0.9)")):
        made = shard(tmp_path / name, written, algorithm="scaffold", lr=1e-3, batch_size=100, epochs=3)
        made.do(jobs.TrainShare, "b")
        made.step = 1
        found.append(np.frombuffer(made.private_of("b")["state/out.weight"], "float32"))
    assert np.abs(found[0]).max() > 0.01
    np.testing.assert_allclose(found[1], found[0], atol=2e-3)


def test_a_skipped_step_changes_nothing_with_any_optimizer(tmp_path):
    class Skips(Algorithm):
        def train(self, local):
            before = {name: value.copy() for name, value in local.params.items()}
            metrics = local.train(correct=local.skip)
            for name in (*local.trained, *local.own):
                np.testing.assert_array_equal(local.params[name], before[name])
            assert local.steps == 3
            return metrics

    for written in ("sgd", "adamw(keep=True)"):
        (tmp_path / written[:3]).mkdir()
        made = OneShard(tmp_path / written[:3], trainer(written), (), algorithm=Skips())
        made.do(jobs.TrainShare, "b")


@pytest.mark.parametrize(
    ("algorithm", "written", "said"),
    [
        ("pfedme", "sgd(momentum=0.9)", "PFedMe holds for plain SGD alone"),
        ("perfedavg", "adam", "PerFedAvg holds for plain SGD alone"),
        ("apfl", "sgd(weight_decay=0.1)", "APFL holds for plain SGD alone"),
        ("qfedavg", "adamw", "QFedAvg holds for plain SGD alone"),
        ("fednova", "adam", "FedNova must know how far steps go"),
        ("scaffold", "sgd(momentum=0.9, keep=True)", "Scaffold must know how far steps go"),
        ("ditto", "adam(keep=True)", "Ditto trains two models of a user"),
        ("fednova", "sgd(momentum=0.9)", None),
        ("fedala", "adam(keep=True)", None),
        ("ditto", "adam", None),
        ("pfedme", "sgd", None),
    ],
)
def test_algorithms_refuse_what_they_would_be_wrong_with(algorithm, written, said):
    made, rule = ALGORITHMS.make(algorithm), trainer(written).local_rule
    if said is None:
        check_local_optimizer(made, rule, written)
        return
    with pytest.raises(BadInput) as caught:
        check_local_optimizer(made, rule, written)
    assert str(caught.value).startswith(f"--local-optimizer {written}: {said}")


def test_what_an_algorithm_says_of_optimizers_is_one_of_three():
    with pytest.raises(BadInput, match=r"Mine.local_optimizers is 'sgd'; it is 'any', 'sums' or 'plain'"):
        type("Mine", (Algorithm,), {"local_optimizers": "sgd"})


def test_one_of_your_own(tmp_path):
    class Sign(LocalRule):
        def step(self, x, gradient, slots, rate, count):
            x -= np.float32(rate) * np.sign(gradient)

    taken = trainer()
    taken.local_rule = Sign()
    made = OneShard(tmp_path, taken, (), algorithm=Algorithm())
    before = made.shard._model.read("out.bias").copy()
    made.do(jobs.TrainShare, "a")  # one step
    assert SIZES["a"] <= 4
    found = made.shard._memory.sums.settle("out.bias")
    assert len(set(np.abs(found))) == 1
    assert before.shape == found.shape


# -- schedules ---------------------------------------------------------------------


def test_factors_by_hand():
    def factors(written, *steps):
        return [LR_SCHEDULES.make(written).at(step) for step in steps]

    assert factors("constant", 0, 1000) == [1, 1]
    assert factors("step(every=30, factor=0.5)", 0, 29, 30, 60) == [1, 1, 0.5, 0.25]
    assert factors("step(2)", 4) == [pytest.approx(0.01)]
    assert factors("warmup(rounds=4)", 0, 1, 2, 3, 4) == [0.25, 0.5, 0.75, 1, 1]
    assert factors("cosine(rounds=4)", 0, 2) == pytest.approx([1, 0.5])
    assert factors("cosine(rounds=4, least=0.2)", 1, 4, 9) == pytest.approx(
        [0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.2, 0.2]
    )
    with pytest.raises(BadInput, match=r"gives a rate of 0 times its own in round 5 of the run"):
        factors("cosine(rounds=4)", 4)
    with pytest.raises(BadInput, match="every is 0; it must be 1 or more"):
        LR_SCHEDULES.make("step(every=0)")


AT = Step(0, "20200101", 1, 0, 2, 10)


@pytest.mark.parametrize("name", SERVER_OPTIMIZERS)
def test_every_server_optimizer_moves_by_the_rate_of_the_round(name):
    """A run of rates 0.5 r, then r, is that of an optimizer whose rate is set so by hand."""
    check_takes_rate(SERVER_OPTIMIZERS.make(name), "warmup(2)")
    rule = Scheduled(SERVER_OPTIMIZERS.make(name), LR_SCHEDULES.make("warmup(2)"))
    by_hand = SERVER_OPTIMIZERS.make(name)
    rate = by_hand.learning_rate
    slots, expected = ({slot: np.full(3, by_hand.initial_slot(slot)) for slot in by_hand.slots} for _ in range(2))
    x, y = START.copy(), START.copy()
    for step, factor in enumerate((0.5, 1.0)):
        at = Step(0, "20200101", step + 1, step, 2, 10)
        by_hand.learning_rate = rate * factor
        x = rule.step(x.copy(), GRADIENTS[step].copy(), slots, at)
        y = by_hand.step(y.copy(), GRADIENTS[step].copy(), expected, at)
    np.testing.assert_array_equal(x, y)
    assert rule.slots == by_hand.slots


def test_a_server_rule_whose_rate_cannot_change_is_refused():
    class Fixed(ServerRule):
        def step(self, x, mean, slots, at):
            return x + mean

    rule = Fixed()
    with pytest.raises(BadInput, match=r"^--server-schedule warmup\(2\) would do nothing: Fixed has no learning_rate"):
        check_takes_rate(rule, "warmup(2)")
    rule.learning_rate = 1.0

    class Bounded(ServerRule):
        learning_rate = 1.0

        def step(self, x, mean, slots, at):
            return x + np.clip(self.learning_rate * mean, -0.01, 0.01)

    check_takes_rate(Bounded(), "warmup(2)")
    with pytest.raises(BadInput, match="the steps of Fixed do not depend on its learning_rate"):
        check_takes_rate(rule, "warmup(2)")


def test_the_local_rate_of_the_round(tmp_path):
    """Round 2 (step 1) of warmup(4) has half the rate; a test after it the same; other numbers go with it."""
    seen = []

    class Looks(Algorithm):
        def train(self, local):
            seen.append(local.lr)
            return local.train(epochs=2)

        def personalise(self, local):
            seen.append(local.lr)

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    made = OneShard(tmp_path / "a", trainer(schedule="warmup(4)", lr=0.8), (), algorithm=Looks())
    half = OneShard(tmp_path / "b", trainer(lr=0.4), (), algorithm=Looks())
    made.do(jobs.TrainShare, "a")
    made.step = half.step = 1
    assert by_bytes(made.do(jobs.TrainShare, "ab")[1]) == by_bytes(half.do(jobs.TrainShare, "ab")[1])
    made.step = 2
    made.do(jobs.EvaluateShare, "a")
    assert seen == pytest.approx([0.2, 0.4, 0.4, 0.4, 0.4, 0.4])
