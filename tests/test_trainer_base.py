"""How `TrainerBase` cuts a user's examples into the batches of its training."""

from types import SimpleNamespace

import numpy as np
import pytest
from linear_model import LinearModel

from trainer import TrainerBase


class Trainer(TrainerBase):
    """Softmax regression, with or without Paddle's operators."""

    def make_model(self):
        return LinearModel(2, 2)


class Plain(Trainer):
    """A `hold` of its own has batches go through Paddle's operators."""

    def hold(self, examples):
        return super().hold(examples)


@pytest.mark.parametrize("kind", [Trainer, Plain])
@pytest.mark.parametrize(
    ("count", "drop_last", "sizes"),
    [(7, False, [3, 3, 1]), (7, True, [3, 3]), (6, True, [3, 3]), (2, True, [2]), (3, True, [3])],
)
def test_a_last_batch_that_is_smaller_may_be_left_out(kind, count, drop_last, sizes):
    trainer = kind(epochs=2, batch_size=3, lr=0.1, drop_last=drop_last, shuffle=True)
    rng = np.random.default_rng(0)
    examples = {"x": rng.normal(size=(count, 2)).astype("float32"), "y": np.arange(count) % 2}
    seen = []
    user = SimpleNamespace(
        uid="a", rng=np.random.default_rng(1), before_step=lambda: None,
        before_batch=lambda batch, again: seen.append(len(batch["y"])),
    )  # fmt: skip
    metrics = trainer.train_user(trainer.make_model(), examples, user)
    assert seen == 2 * sizes
    assert metrics["top1"][1] == 2 * sum(sizes)
