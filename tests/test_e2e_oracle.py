"""A run equals a plain FedAvg loop written here, with none of the project's code in it."""

import json

import numpy as np
import pytest
from leaf_data import WORDS, make_leaf
from running import ROOT, metrics, params, run
from tiny_task import make_data

pytestmark = pytest.mark.usefixtures("forks")

LINEAR = ROOT / "tests" / "linear_task.py"
SMALL_LM = ROOT / "tests" / "small_lm.py"


def cohorts(output):
    return json.loads((output / "cohorts.json").read_text())


def softmax_step(weight, bias, x, y, lr, clip):
    """One SGD step of softmax regression, gradients by hand, float64."""
    z = x @ weight + bias
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    gw, gb = x.T @ p / len(y), p.mean(0)
    scale = min(1.0, clip / np.sqrt((gw**2).sum() + (gb**2).sum()))
    return weight - lr * scale * gw, bias - lr * scale * gb


def user_of(files, uid):
    parts = [file[uid] for file in files if uid in file]
    x = np.concatenate([np.array(part["x"], "float32").astype("float64") for part in parts])
    return x, np.concatenate([part["y"] for part in parts])


@pytest.mark.parametrize("clip", [pytest.param(5.0, marks=pytest.mark.slow), 0.05])
def test_rounds_of_softmax_regression_equal_a_numpy_loop(tmp_path, clip):
    data = make_data(tmp_path / "data", seed=3)
    flags = ["--rounds", 4, "--sample-num", 6, "--epochs", 2, "--batch-size", 4, "--lr", 0.3, "--max-grad-norm", clip]
    run(LINEAR, data, *flags, "--server-lr", 1.3, "--shards", 2, "--output", tmp_path / "out", ranks=2)
    start, end = params(tmp_path / "out", "initial"), params(tmp_path / "out")
    weight, bias = start["layers.0.weight"].astype("float64"), start["layers.0.bias"].astype("float64")
    files = [json.loads(p.read_text()) for p in sorted((data / "20200101").glob("train*"))]
    for cohort in cohorts(tmp_path / "out"):
        deltas = []
        for uid in cohort:
            x, y = user_of(files, uid)
            w, b = weight, bias
            for _ in range(2):
                for i in range(0, len(y), 4):
                    w, b = softmax_step(w, b, x[i : i + 4], y[i : i + 4], 0.3, clip)
            deltas.append((len(y), w - weight, b - bias))
        total = sum(n for n, _, _ in deltas)
        weight = weight + 1.3 * sum(n * dw for n, dw, _ in deltas) / total
        bias = bias + 1.3 * sum(n * db for n, _, db in deltas) / total
    assert len(cohorts(tmp_path / "out")) == 4
    np.testing.assert_allclose(end["layers.0.weight"], weight, atol=2e-6)
    np.testing.assert_allclose(end["layers.0.bias"], bias, atol=2e-6)


def lm_batches(user, vocab):
    ids = lambda rows: np.array([[vocab.get(t, 1) for t in r] for r in rows])  # noqa: E731
    x = ids([s for c in user["x"] for s in c])
    y = ids([s for c in user["y"] for s in c["target_tokens"]])
    m = np.array([s for c in user["y"] for s in c["count_tokens"]], "float32")
    return [(x[i : i + 5], y[i : i + 5], m[i : i + 5]) for i in range(0, len(x), 5)]


class PlainLM:
    """The language model as Paddle's manual would write it, on tensors of its own."""

    def __init__(self, values):
        import paddle

        class Net(paddle.nn.Layer):
            def __init__(self):
                super().__init__()
                v, h = values["embedding.weight"].shape
                self.embedding = paddle.nn.Embedding(v, h)
                self.lstm = paddle.nn.LSTM(h, h, num_layers=2)
                self.out = paddle.nn.Linear(h, v)

        self.net = Net()
        self.paddle = paddle
        self.load(values)

    def load(self, values):
        for name, tensor in self.net.named_parameters():
            tensor.set_value(values[name].astype("float32"))

    def values(self):
        return {name: tensor.numpy().astype("float64") for name, tensor in self.net.named_parameters()}

    def passes(self, batches, train):
        """Loss sum, positions, hits and tokens over a user's batches, training on the way if asked."""
        paddle, sums, state = self.paddle, np.zeros(4), None
        clip = paddle.nn.ClipGradByGlobalNorm(5.0)
        optimizer = paddle.optimizer.SGD(1.0, parameters=self.net.parameters(), grad_clip=clip)
        for x, y, m in batches:
            if state is not None:
                state = tuple(s[:, : len(x)].detach() for s in state)
            hidden, state = self.net.lstm(self.net.embedding(paddle.to_tensor(x)), state)
            logits = self.net.out(hidden)
            entropy = paddle.nn.functional.cross_entropy(logits, paddle.to_tensor(y), reduction="none").squeeze(-1)
            loss = (entropy * paddle.to_tensor(m)).mean()
            if train:
                loss.backward()
                optimizer.step()
                optimizer.clear_grad()
            hits = (logits.argmax(-1).numpy() == y) & (y > 1)
            sums += [float(loss) * x.size, x.size, hits.sum(), (x != 0).sum()]
        return sums


@pytest.fixture(scope="module")
def leaf(tmp_path_factory):
    return make_leaf(tmp_path_factory.mktemp("leaf"))


def leaf_users(data, day, split):
    vocab = json.loads((data / "vocab.json").read_text())["vocab"]
    users = json.loads((data / day / f"{split}_data.json").read_text())["user_data"]
    return {uid: lm_batches(user, vocab) for uid, user in users.items()}


@pytest.mark.parametrize("mode", ["federated", pytest.param("centralized", marks=pytest.mark.slow)])
def test_rounds_and_test_of_the_language_model_equal_a_paddle_loop(leaf, tmp_path, mode):
    run(SMALL_LM, leaf, "--rounds", 3, "--sample-num", 4, "--mode", mode, "--shards", 2, "--output", tmp_path, ranks=2)
    users = leaf_users(leaf, "20200101", "train")
    now = {name: value.astype("float64") for name, value in params(tmp_path, "initial").items()}
    assert now["out.weight"].shape == (8, len(WORDS) + 2)
    model = PlainLM(now)
    for cohort, row in zip(cohorts(tmp_path), metrics(tmp_path)[:3], strict=True):
        deltas, sums = [], np.zeros(4)
        for uid in cohort:
            if mode == "federated":
                model.load(now)
            sums += model.passes(users[uid], train=True)
            count = sum(len(x) for x, _, _ in users[uid])
            deltas.append((count, {name: value - now[name] for name, value in model.values().items()}))
        total = sum(n for n, _ in deltas)
        if mode == "federated":
            now = {name: now[name] + 1.85 * sum(n * d[name] for n, d in deltas) / total for name in now}
        else:
            now = model.values()
        assert float(row["loss"]) == pytest.approx(sums[0] / sums[1], abs=1e-5)
        assert float(row["top1"]) == pytest.approx(sums[2] / sums[3], abs=1e-9)
    end = params(tmp_path)
    for name in now:
        np.testing.assert_allclose(end[name], now[name], atol=1e-5)
    model.load(end)
    tested = sum(model.passes(batches, train=False) for batches in leaf_users(leaf, "20200102", "test").values())
    row = metrics(tmp_path)[3]
    assert row["phase"] == "test"
    assert float(row["loss"]) == pytest.approx(tested[0] / tested[1], abs=1e-5)
    assert float(row["top1"]) == pytest.approx(tested[2] / tested[3], abs=1e-9)


def test_private_parameters_start_per_uid_and_come_back(tmp_path):
    """A user trained twice goes on from its own private values, not from the start or another's."""
    data = make_data(tmp_path / "data", users=3, seed=5)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps([["user000"], ["user001"], ["user000"]]))
    flags = ["--sampler", "fixed", "--plan", plan, "--rounds", 3, "--lr", 0.2, "--server-lr", 1, "--batch-size", 4]
    run(LINEAR, data, *flags, "--private", "layers.0.bias", "--output", tmp_path / "out", ranks=2)
    start = params(tmp_path / "out", "initial")
    assert set(start) == {"layers.0.weight"}
    weight = start["layers.0.weight"].astype("float64")
    files = [json.loads(p.read_text()) for p in sorted((data / "20200101").glob("train*"))]
    biases = {uid: np.zeros(3) for uid in ("user000", "user001")}
    for (uid,) in json.loads(plan.read_text()):
        x, y = user_of(files, uid)
        for i in range(0, len(y), 4):
            weight, biases[uid] = softmax_step(weight, biases[uid], x[i : i + 4], y[i : i + 4], 0.2, 5.0)
    np.testing.assert_allclose(params(tmp_path / "out")["layers.0.weight"], weight, atol=2e-6)
    for uid, bias in biases.items():
        with np.load(tmp_path / "out" / "params" / "private" / f"{uid}.npz") as file:
            np.testing.assert_allclose(file["layers.0.bias"], bias, atol=2e-6)
