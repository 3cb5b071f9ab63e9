"""FedBN in NumPy on a net with batch norm, and what passes of algorithms leave of running means and variances."""

import numpy as np
import pytest
from net_oracle import CLASSES, DAY, EPOCHS, FEATURES, LR, NEXT, WIDTH
from paddle import nn
from shard_rounds import ShardRounds, made_up

from model import Classifier
from scheduler import Algorithm
from trainer import TrainerBase, algorithms

BATCH = 4
# No batch of one example, which Paddle's batch norm lets through as it is.
DAYS = {
    DAY: {"train": made_up({"a": 2, "b": 12, "c": 7, "d": 6}), "test": {}},
    NEXT: {"train": made_up({"a": 3, "b": 6, "d": 7}, seed=1), "test": made_up({"a": 5, "b": 6, "d": 7}, seed=2)},
}
ROUNDS = ((DAY, "abc"), (DAY, "bc"), (DAY, "ca"), (NEXT, "ab"))
NORM = ("layers.1.weight", "layers.1.bias", "layers.1._mean", "layers.1._variance")
SCALE, SHIFT, MEAN, VARIANCE = NORM
FIRST = ("layers.0.weight", "layers.0.bias")
LAST = ("layers.3.weight", "layers.3.bias")


class NormTrainer(TrainerBase):
    def make_model(self):
        return Classifier(nn.Linear(FEATURES, WIDTH), nn.BatchNorm1D(WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))


def softmax(logits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def train(p, x, y, only):
    """Local SGD of p (name -> array), by whose steps `only` moves; running values move by a tenth of the batch's."""
    p = dict(p)
    for _ in range(EPOCHS):
        for i in range(0, len(y), BATCH):
            xb, yb = x[i : i + BATCH], y[i : i + BATCH]
            n = len(yb)
            a = xb @ p[FIRST[0]] + p[FIRST[1]]
            mean, variance = a.mean(0), a.var(0)
            root = np.sqrt(variance + 1e-5)
            hat = (a - mean) / root
            z = np.tanh(hat * p[SCALE] + p[SHIFT])
            error = softmax(z @ p[LAST[0]] + p[LAST[1]])
            error[np.arange(n), yb] -= 1
            error /= n
            back = (error @ p[LAST[0]].T) * (1 - z**2)
            inner = back * p[SCALE]
            into = (inner - inner.mean(0) - hat * (inner * hat).mean(0)) / root
            g = {
                FIRST[0]: xb.T @ into, FIRST[1]: into.sum(0), SCALE: (back * hat).sum(0), SHIFT: back.sum(0),
                LAST[0]: z.T @ error, LAST[1]: error.sum(0),
            }  # fmt: skip
            p |= {name: p[name] - LR * g[name] for name in only}
            p |= {MEAN: 0.9 * p[MEAN] + 0.1 * mean, VARIANCE: 0.9 * p[VARIANCE] + 0.1 * variance}
    return p


def loss_of(p, x, y):
    hat = ((x @ p[FIRST[0]] + p[FIRST[1]]) - p[MEAN]) / np.sqrt(p[VARIANCE] + 1e-5)
    q = softmax(np.tanh(hat * p[SCALE] + p[SHIFT]) @ p[LAST[0]] + p[LAST[1]])
    return -np.log(q[np.arange(len(y)), y]).mean()


def wide(arrays):
    return {name: value.astype("float64") for name, value in arrays.items()}


def data(day, split, uid):
    return DAYS[day][split][uid]["x"].astype("float64"), DAYS[day][split][uid]["y"]


def run_of(folder, algorithm, **more):
    return ShardRounds(
        folder, NormTrainer(epochs=EPOCHS, batch_size=BATCH, lr=LR, max_grad_norm=1e9), algorithm, DAYS, **more
    )


def test_fedbn(tmp_path):
    run = run_of(tmp_path, algorithms.FedBN())
    shared, own = wide(run.params), {}
    assert set(shared) == {*FIRST, *LAST}
    new = wide(run.start_of("d"))
    for day, cohort in ROUNDS:
        run.train(day, cohort)
        ends, sizes = [], []
        for uid in cohort:
            x, y = data(day, "train", uid)
            end = train({**shared, **own.get(uid, new)}, x, y, [*FIRST, *LAST, SCALE, SHIFT])
            own[uid] = {name: end[name] for name in NORM}
            ends.append(end)
            sizes.append(len(y))
        shared = {n: sum(k * end[n] for k, end in zip(sizes, ends, strict=True)) / sum(sizes) for n in shared}
    for name, value in run.params.items():
        np.testing.assert_allclose(value, shared[name], atol=2e-5)
    for uid, arrays in own.items():
        kept = run.kept(uid)
        assert set(kept) == set(NORM)
        for name in NORM:
            np.testing.assert_allclose(kept[name], arrays[name], atol=2e-5)
    tests = run.test(NEXT, NEXT)
    for uid, metrics in tests.items():
        x, y = data(NEXT, "test", uid)
        usual = mine = {**shared, **own.get(uid, new)}
        if uid == "d":
            mine = train(usual, *data(NEXT, "train", uid), [SCALE, SHIFT])
        assert metrics["loss"] == pytest.approx(loss_of(usual, x, y), abs=3e-5)
        assert metrics["personal_loss"] == pytest.approx(loss_of(mine, x, y), abs=3e-5)


class Looks(Algorithm):
    """FedAvg that goes through each batch twice more, and tests before it trains."""

    def train(self, local):
        before = local.evaluate()
        away = {name: value + 1 for name, value in local.shared.items()}

        def correct():
            names = local.layers.specs
            now = {name: local.params[name].copy() for name in names}
            gradients = {name: value.copy() for name, value in local.gradients().items()}
            assert local.again(away)[LAST[1]].shape == (CLASSES,)
            local.features(away)
            for name in names:
                np.testing.assert_array_equal(local.params[name], now[name], strict=True)
            for name, value in local.gradients().items():
                np.testing.assert_array_equal(value, gradients[name], strict=True)

        metrics = local.train(correct=correct)
        local.features(away)
        assert local.evaluate(local.examples) != before
        return metrics


@pytest.mark.parametrize("private", [(), ("layers.1.*",), ("layers.1._mean",)])
def test_passes_at_other_parameters_leave_the_model_as_it_is(tmp_path, private):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    looks, plain = (
        run_of(tmp_path / name, algorithm, private=private)
        for name, algorithm in (("one", Looks()), ("other", Algorithm()))
    )
    for day, cohort in ROUNDS:
        assert looks.train(day, cohort) == plain.train(day, cohort)
    for name, value in plain.params.items():
        np.testing.assert_array_equal(looks.params[name], value)


@pytest.mark.parametrize(
    "algorithm",
    [
        algorithms.PerFedAvg(hessian=True),
        algorithms.PFedMe(),
        algorithms.APFL(),
        algorithms.Ditto(),
        algorithms.FedALA(),
        algorithms.Scaffold(option=1),
    ],
)
@pytest.mark.parametrize("private", [(), ("layers.1.*",)])
def test_running_values_move_by_the_passes_of_training_alone(tmp_path, algorithm, private):
    """Means of batches do not depend on layers above them: with the first layer fixed, all agree with FedAvg."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()

    class Fixed(NormTrainer):
        def make_model(self):
            model = super().make_model()
            model.layers[0].weight.stop_gradient = model.layers[0].bias.stop_gradient = True
            return model

    equal = algorithms.Scaffold() if algorithm.weight == "one" else Algorithm()
    made, plain = (
        ShardRounds(tmp_path / name, Fixed(epochs=3, batch_size=2, lr=0.05), each, DAYS, private)
        for name, each in (("one", algorithm), ("other", equal))
    )
    for day, cohort in ((DAY, "bd"), (DAY, "bd"), (DAY, "bd")):
        made.train(day, cohort)
        plain.train(day, cohort)
    for name in (MEAN, VARIANCE):
        for uid in "bd":
            one, other = ((run.kept(uid) if private else run.params)[name] for run in (made, plain))
            np.testing.assert_allclose(one, other, atol=1e-6)
