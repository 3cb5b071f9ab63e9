"""examples/gpt.py: attention is causal, the loss is the language model's, adapters begin as nothing and alone train."""

import sys

import numpy as np
import pytest
from running import ROOT

sys.path.insert(0, str(ROOT / "examples"))

VOCAB, LENGTH = 12, 5


@pytest.fixture
def make():
    import paddle
    from gpt_model import GPT

    def made(rank=0, **other):
        paddle.seed(0)
        return GPT(
            **{"vocab_size": VOCAB, "length": LENGTH, "hidden": 8, "layers": 2, "heads": 2, "rank": rank} | other
        )

    return made


@pytest.fixture
def batch():
    import paddle

    rng = np.random.default_rng(1)
    x, y = rng.integers(2, VOCAB, (2, 3, LENGTH)).astype("int32")
    x[2, 3:] = y[2, 2:] = 0
    y[0, 1] = 1
    mask = (x != 0).astype("float32")
    return {name: paddle.to_tensor(rows) for name, rows in (("x", x), ("y", y), ("mask", mask))}


def logits(model, x):
    import paddle

    rows, length = x.shape
    hidden = model._read(paddle.to_tensor(x), np.arange(rows * length))
    return (hidden.matmul(model.word.weight, transpose_y=True) + model.out_bias).reshape([rows, length, -1]).numpy()


def test_a_word_changes_what_is_guessed_after_it_alone(make):
    model, x = make(), np.array([[2, 3, 4, 5, 6]], "int32")
    other = x.copy()
    other[0, 2] = 9
    differs = np.abs(logits(model, x) - logits(model, other)).max(axis=(0, 2))
    assert (differs[:2] == 0).all()
    assert (differs[2:] > 1e-6).all()


def test_loss_and_hits_are_those_of_the_logits(make, batch):
    """Mean over all places of masked cross entropy; hits that are words, over inputs that are no PAD."""
    model = make()
    x, y, mask = (batch[name].numpy() for name in ("x", "y", "mask"))
    z = logits(model, x).astype("float64")
    entropy = np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, y[..., None], -1)[..., 0]
    hits = (z.argmax(-1) == y) & (y > 1)
    loss, metrics = model.loss(batch)
    assert float(loss) == pytest.approx((mask * entropy).sum() / x.size, rel=1e-5)
    assert metrics["top1"] == (hits.sum(), (x != 0).sum())
    rows = model.example_metrics(batch)
    assert rows["loss"][0] == pytest.approx((mask * entropy).sum(1), rel=1e-5)
    assert rows["top1"][0].tolist() == hits.sum(1).tolist()
    assert [rows[name][1].sum() for name in ("loss", "top1")] == [x.size, (x != 0).sum()]


def test_tied_rows_get_the_gradient_of_both_their_parts(make, batch):
    """By a difference quotient, of a word that is read and guessed."""
    model, word = make(), int(batch["x"][0, 0])
    model.loss(batch)[0].backward()
    gradient, step = model.word.weight.grad.numpy()[word, 3], 1e-2
    value = model.word.weight.numpy()
    found = []
    for sign in (1, -1):
        moved = value.copy()
        moved[word, 3] += sign * step
        model.word.weight.set_value(moved)
        found.append(float(model.loss(batch)[0]))
    assert gradient == pytest.approx((found[0] - found[1]) / (2 * step), rel=2e-2, abs=1e-4)


def test_adapters_begin_as_nothing_and_alone_train(make, batch):
    plain, adapted = make(), make(rank=2)
    values = plain.state_dict()
    assert set(values) == set(adapted.frozen)
    for name, value in adapted.state_dict().items():
        if name in values:
            value.set_value(values[name])
    np.testing.assert_array_equal(logits(plain, batch["x"].numpy()), logits(adapted, batch["x"].numpy()))
    from simulator.worker.model_state import ModelState

    state = ModelState(adapted, ())
    assert {name.rpartition(".")[2] for name in state.shared} == {"lora_a", "lora_b"}
    # Two blocks of 8 -> 24, 8 -> 8, 8 -> 32 and 32 -> 8, by 2.
    assert sum(int(np.prod(state.specs[name].shape)) for name in state.shared) == 2 * 2 * (32 + 16 + 40 + 40)
    adapted.loss(batch)[0].backward()
    assert {n for n, p in adapted.named_parameters() if p.grad is not None} == set(state.shared)


def test_a_size_that_heads_cannot_share_is_refused(make):
    with pytest.raises(ValueError, match="8 numbers of a place are not to be shared by 3 heads"):
        make(heads=3)
