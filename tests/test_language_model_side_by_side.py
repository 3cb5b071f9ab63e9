"""The language model's tests of several users: rows of different users, each with a state of its own."""

import numpy as np
import paddle
import pytest

from model.language_model import LanguageModel
from trainer import LanguageModelTrainer

VOCAB = 23


class Somebody:
    """A user with made-up sequences of four tokens, padded at the end, some of them unknown."""

    def __init__(self, sequences, *, seed=None, own=None):
        rng = np.random.default_rng(sequences if seed is None else seed)
        x = rng.integers(1, VOCAB, (sequences, 4)).astype("int32")
        y = rng.integers(1, VOCAB, (sequences, 4)).astype("int32")
        length = rng.integers(1, 5, (sequences, 1))
        past = np.arange(4) >= length
        x[past], y[past] = 0, 0
        self.examples = {"x": x, "y": y, "mask": (~past).astype("float32")}
        self.private = {} if own is None else {"out.bias": own}


@pytest.fixture
def trainer():
    return LanguageModelTrainer(vocab_size=VOCAB, hidden_size=6, batch_size=3)


@pytest.fixture
def model(trainer):
    paddle.seed(3)
    model = trainer.make_model()
    for parameter in model.parameters():
        parameter.set_value(parameter * 8.0)  # states that differ
    model.eval()
    return model


def alone(trainer, model, user):
    if user.private:
        model.out.bias.set_value(user.private["out.bias"])
    return trainer.evaluate_user(model, user.examples, user)


def assert_close(found, expected):
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["loss"] == (pytest.approx(theirs["loss"][0], rel=1e-6), theirs["loss"][1])
        assert mine["top1"] == theirs["top1"]


def test_each_user_gets_what_it_gets_alone(trainer, model):
    """Fewer sequences than a batch, whole batches, a last one that is smaller; the longest neither first nor last."""
    users = [Somebody(n) for n in (1, 2, 3, 4, 11, 6, 8, 70, 5, 1)]
    assert_close(trainer.evaluate_users(model, users), [alone(trainer, model, user) for user in users])


def test_the_state_goes_on_within_a_user_and_from_nobody_else(trainer, model):
    """The same sequences before and after another user's give the same; without those before them, something else."""
    twin, other = Somebody(7, seed=1), Somebody(9, seed=2)
    found = trainer.evaluate_users(model, [twin, other, Somebody(7, seed=1)])
    assert found[0] == found[2]
    tail = Somebody(7, seed=1)
    tail.examples = {name: rows[3:] for name, rows in tail.examples.items()}
    head = Somebody(7, seed=1)
    head.examples = {name: rows[:3] for name, rows in head.examples.items()}
    parts = [metrics["loss"][0] for metrics in trainer.evaluate_users(model, [head, tail])]
    assert abs(sum(parts) - found[0]["loss"][0]) > 1e-3


def test_each_row_has_its_users_own_bias(trainer, model):
    rng = np.random.default_rng(0)
    users = [Somebody(n, own=rng.normal(size=VOCAB).astype("float32")) for n in (4, 9, 1, 3)]
    expected = [alone(trainer, model, user) for user in users]
    model.out.bias.set_value(np.full(VOCAB, np.nan, "float32"))  # as in a test of several
    assert_close(trainer.evaluate_users(model, users), expected)


def test_sequences_of_two_lengths(trainer, model):
    users = [Somebody(4), Somebody(5), Somebody(6)]
    users[1].examples = {name: rows[:, :3] for name, rows in users[1].examples.items()}
    assert_close(trainer.evaluate_users(model, users), [alone(trainer, model, user) for user in users])


def test_more_rows_than_a_block_of_logits(trainer, model):
    users = [Somebody(40), Somebody(39), Somebody(41)]
    trainer.batch_size = 40
    assert_close(trainer.evaluate_users(model, users), [alone(trainer, model, user) for user in users])


class OwnForward(LanguageModelTrainer):
    """With a forward of its own."""

    def forward(self, model, batch, state):
        return super().forward(model, batch, None)


class OwnLoss(LanguageModel):
    """With a loss of its own."""

    def loss_from(self, x, y, mask, state):
        return super().loss_from(x, y, mask, self.initial_state(len(x)))


def test_what_a_subclass_changes_is_not_passed_by(trainer, model):
    assert trainer.tests_together(model, ()) == 2048
    assert trainer.tests_together(model, ("out.bias",)) == 1024
    assert trainer.tests_together(model, ("out.bias", "out.weight")) == 0
    assert trainer.tests_together(OwnLoss(VOCAB, 6), ()) == 0
    other, users = OwnForward(vocab_size=VOCAB, hidden_size=6, batch_size=3), [Somebody(7), Somebody(4)]
    assert other.tests_together(model, ()) == 0
    assert other.evaluate_users(model, users) == [alone(other, model, user) for user in users]
    assert other.evaluate_users(model, users)[0] != alone(trainer, model, users[0])
