"""model/classifier.py, dense_stack.py, last_step.py: gradients without Paddle's operators are those with them."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle.nn import Flatten, Linear, ReLU, Sigmoid, Tanh

from model import Classifier, LastStep
from trainer import TrainerBase

N, CLASSES = 7, 4

STACKS = {
    "logistic regression": lambda: [Linear(6, CLASSES)],
    "relu": lambda: [Linear(6, 5), ReLU(), Linear(5, CLASSES)],
    "tanh and sigmoid": lambda: [Linear(6, 5), Tanh(), Linear(5, 3), Sigmoid(), Linear(3, CLASSES)],
    "two in a row, no bias": lambda: [Linear(6, 5, bias_attr=False), Linear(5, CLASSES)],
    "images": lambda: [Flatten(), Linear(6, 5), ReLU(), Linear(5, CLASSES)],
}


def examples(stack="", rows=N, dtype="float32"):
    rng = np.random.default_rng(1)
    shape = (rows, 2, 3) if stack == "images" else (rows, 6)
    return {"x": rng.normal(size=shape).astype(dtype), "y": rng.integers(0, CLASSES, rows)}


def by_paddle(model, batch):
    loss, metrics = model.loss({name: paddle.to_tensor(rows) for name, rows in batch.items()})
    loss.backward()
    grads = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    model.clear_gradients()
    return {name: (float(total), float(count)) for name, (total, count) in metrics.items()}, grads


def by_numpy(model, batch):
    metrics = model.learner(batch)(batch)
    grads = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    for p in model.parameters():
        p.clear_gradient(False)
    return metrics, grads


@pytest.mark.parametrize("stack", STACKS)
def test_gradients_and_metrics_are_those_of_paddle(stack):
    paddle.seed(3)
    model, batch = Classifier(*STACKS[stack]()), examples(stack)
    metrics, grads = by_numpy(model, batch)
    expected, theirs = by_paddle(model, batch)
    assert grads.keys() == theirs.keys() == dict(model.named_parameters()).keys()
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, theirs[name], rtol=2e-5, atol=2e-7)
    assert metrics["top1"] == expected["top1"]
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_a_gradient_by_hand():
    """Zero weights: each class has 1/4, so the derivative of a row's logits is that less 1 at the true class."""
    model = Classifier(Linear(2, CLASSES))
    model.layers[0].weight.set_value(np.zeros((2, CLASSES), "float32"))
    batch = {"x": np.array([[2.0, 0.0], [0.0, 6.0]], "float32"), "y": np.array([0, 3])}
    metrics, grads = by_numpy(model, batch)
    assert grads["layers.0.bias"].tolist() == [-0.25, 0.25, 0.25, -0.25]
    assert grads["layers.0.weight"].tolist() == [[-0.75, 0.25, 0.25, 0.25], [0.75, 0.75, 0.75, -2.25]]
    assert metrics["top1"] == (1.0, 2)
    assert metrics["loss"] == (pytest.approx(2 * np.log(4)), 2)


def test_large_logits_do_not_overflow():
    model = Classifier(Linear(6, 3), Sigmoid(), Linear(3, CLASSES))
    batch = examples()
    batch["x"] *= 1e6
    model.layers[2].weight.set_value(np.full((3, CLASSES), 1e5, "float32") * np.arange(CLASSES, dtype="float32"))
    metrics, grads = by_numpy(model, batch)
    assert np.isfinite(metrics["loss"][0])
    assert all(np.isfinite(grad).all() for grad in grads.values())


def test_layers_that_do_not_train_have_no_gradient():
    paddle.seed(3)
    model, batch = Classifier(*STACKS["tanh and sigmoid"]()), examples()
    _, whole = by_numpy(model, batch)
    for name, p in model.named_parameters():
        p.stop_gradient = name != "layers.2.bias"
    _, grads = by_numpy(model, batch)
    assert grads.keys() == {"layers.2.bias"}
    assert np.array_equal(grads["layers.2.bias"], whole["layers.2.bias"])


def test_where_paddles_operators_have_to():
    model, good = Classifier(Linear(6, CLASSES)), examples()
    assert model.learner(good) is not None
    other = {
        "a class too high": {**good, "y": np.full(N, CLASSES)},
        "a class that Paddle leaves out": {**good, "y": np.full(N, -100)},
        "another precision": examples(dtype="float64"),
        "classes that are no integers": {**good, "y": np.eye(CLASSES, dtype="float32")[good["y"]]},
        "no flat rows": examples("images"),
        "too wide": {**good, "x": np.zeros((N, 7), "float32")},
        "no y": {"x": good["x"]},
    }
    for why, batch in other.items():
        assert model.learner(batch) is None, why
    hook = model.layers[0].register_forward_post_hook(lambda layer, given, out: 2 * out)
    assert model.learner(good) is None
    hook.remove()
    model.layers[0].weight = model.layers[0].create_parameter([6, CLASSES])
    assert model.learner(good) is None


def test_other_layers_and_classes_of_ones_own_use_paddle():
    class Halved(Classifier):
        def forward(self, x):
            return super().forward(x) / 2

    assert Halved(Linear(6, CLASSES)).learner(examples()) is None
    assert Classifier(Linear(6, 6), paddle.nn.LayerNorm(6), Linear(6, CLASSES)).learner(examples()) is None
    shared = Linear(6, 6)
    assert Classifier(shared, shared, Linear(6, CLASSES)).learner(examples()) is None


class Turn(SimpleNamespace):
    def before_batch(self, batch, again):
        pass

    def before_step(self):
        self.steps += 1
        self.seen.append([p.grad.numpy().copy() for p in self.model.parameters()])


def train(kind, paddle_only):
    class Trainer(TrainerBase):
        def make_model(self):
            return Classifier(Linear(6, 5), ReLU(), Linear(5, CLASSES))

        if paddle_only:

            def forward(self, model, batch, state):
                return super().forward(model, batch, state)

    paddle.seed(5)
    trainer = Trainer(batch_size=3, lr=0.5, max_grad_norm=0.3, epochs=2, shuffle=True)
    model = trainer.make_model()
    turn = Turn(rng=np.random.default_rng(9), steps=0, seen=[], model=model)
    metrics = trainer.train_user(model, examples(rows=10), turn)
    return metrics, [p.numpy() for p in model.parameters()], turn


def test_a_users_training_is_the_same_but_for_the_rounding():
    (ours, mine, turn), (theirs, other, turn_of_paddle) = train(TrainerBase, False), train(TrainerBase, True)
    for one, two in zip(mine, other, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    assert ours["top1"] == theirs["top1"]
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    # What an algorithm corrects is there before each step.
    assert turn.steps == turn_of_paddle.steps == 8
    for one, two in zip(turn.seen, turn_of_paddle.seen, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_layers_of_convolution_train_by_paddle():
    model = Classifier(paddle.nn.Conv2D(1, 2, 3), ReLU(), Flatten(), Linear(2 * 4, CLASSES))
    batch = {"x": np.zeros((5, 1, 4, 4), "float32"), "y": np.arange(5) % CLASSES}
    assert model.learner(batch) is None
    metrics, grads = by_paddle(model, batch)
    assert len(grads) == 4
    assert metrics["top1"][1] == 5.0


NETS = {
    "dense": lambda: [Linear(6, 5), ReLU(), Linear(5, CLASSES)],
    "norms": lambda: [Linear(6, 5), paddle.nn.BatchNorm1D(5), paddle.nn.Dropout(0.5), Linear(5, CLASSES)],
    "nested": lambda: [paddle.nn.Sequential(Linear(6, 5), paddle.nn.LayerNorm(5)), Linear(5, CLASSES)],
}


@pytest.mark.parametrize("net", NETS)
def test_metrics_of_each_example_add_up_to_those_of_the_batch(net):
    paddle.seed(4)
    model = Classifier(*NETS[net]())
    assert model.examples_are_independent
    model.eval()
    batch = {name: paddle.to_tensor(rows) for name, rows in examples(rows=9).items()}
    with paddle.no_grad():
        _, whole = model.loss(batch)
        each = model.example_metrics(batch)
        alone = [model.loss({name: rows[i : i + 1] for name, rows in batch.items()})[1] for i in range(9)]
    for name, (total, count) in whole.items():
        sums, counted = each[name]
        assert counted * 9 == count
        np.testing.assert_allclose(sums.numpy().sum(), float(total), rtol=1e-6)
        np.testing.assert_allclose(sums.numpy(), [float(metrics[name][0]) for metrics in alone], rtol=1e-5, atol=1e-7)


def test_examples_that_may_see_each_other_are_tested_by_themselves():
    class Centred(Classifier):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    assert not Centred(Linear(6, CLASSES)).examples_are_independent
    batch_norm = paddle.nn.BatchNorm1D(6, use_global_stats=False)
    assert not Classifier(batch_norm, Linear(6, CLASSES)).examples_are_independent
    assert not Classifier(paddle.nn.Softmax(axis=0), Linear(6, CLASSES)).examples_are_independent


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_classes_may_be_integers_of_any_type(dtype):
    model, batch = Classifier(Linear(6, CLASSES)), examples()
    whole = {name: paddle.to_tensor(rows) for name, rows in batch.items()}
    other = whole | {"y": paddle.to_tensor(batch["y"].astype(dtype))}
    assert model.loss(other)[1] == model.loss(whole)[1]
    for name, (sums, _) in model.example_metrics(other).items():
        assert (sums == model.example_metrics(whole)[name][0]).all()


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_the_last_step_of_lstm_layers_by_hand():
    """Two layers over three places, by the equations: i, f, g, o of W x + U h + b; c = f c + i g; h = o tanh(c)."""
    paddle.seed(6)
    layer, x = LastStep(3, 2, num_layers=2), np.random.default_rng(2).normal(size=(4, 3, 3)).astype("float32")
    rows = x
    for lstm in layer.lstms:
        w, u, b, b2 = (p.numpy() for p in lstm.parameters())
        np.testing.assert_array_equal(b, [0, 0, 1, 1, 0, 0, 0, 0])
        assert not b2.any()
        assert 0.7 < max(np.abs(w).max(), np.abs(u).max()) / np.sqrt(6 / (rows.shape[2] + 5 * 2)) <= 1
        h, c, outputs = np.zeros((4, 2)), np.zeros((4, 2)), []
        for place in range(3):
            i, f, g, o = np.split(rows[:, place] @ w.T + h @ u.T + b, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        rows = np.stack(outputs, axis=1)
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), rows[:, -1], rtol=1e-5, atol=1e-6)


def test_sequences_are_tested_side_by_side():
    paddle.seed(7)
    model = Classifier(paddle.nn.Embedding(5, 3), LastStep(3, 4), Linear(4, CLASSES))
    assert model.examples_are_independent
    batch = {"x": np.arange(12).reshape(3, 4) % 5, "y": np.arange(3)}
    with paddle.no_grad():
        each = model.example_metrics({name: paddle.to_tensor(rows) for name, rows in batch.items()})
        for i in range(3):
            _, alone = model.loss({name: paddle.to_tensor(rows[i : i + 1]) for name, rows in batch.items()})
            assert float(each["loss"][0][i]) == pytest.approx(alone["loss"][0], rel=1e-5)
            assert float(each["top1"][0][i]) == alone["top1"][0]


def test_a_negative_class_is_refused():
    model = Classifier(Linear(6, CLASSES))
    batch = {name: paddle.to_tensor(rows) for name, rows in examples().items()}
    batch["y"][2] = -100
    for method in (model.loss, model.example_metrics):
        with pytest.raises(ValueError, match="y holds the class -100: classes begin at 0"):
            method(batch)
