"""The CNN as a shard trains it; started by cnn.py.

python benchmarks/cnn_step.py PASSES SECONDS
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from common import PEERS
from paddle import nn

from model import ModelBase
from trainer import TrainerBase

sys.path.append(str(PEERS))

from cnn_workload import BATCH, CLASSES, LEARNING_RATE, MAX_GRAD_NORM, make_images, time_steps
from paddle_image import image_layers


class CNN(ModelBase):
    """Two convolutions, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*image_layers(CLASSES))

    def loss(self, batch: Mapping[str, paddle.Tensor]) -> tuple[paddle.Tensor, dict[str, tuple[Any, Any]]]:
        """Cross entropy.  No accuracy: the peers' training does not count hits either."""
        loss = nn.functional.cross_entropy(self.net(batch["x"]), batch["y"])
        n = len(batch["y"])
        return loss, {"loss": (loss * n, n)}


class CNNTrainer(TrainerBase):
    """SGD in small batches, as the base class does it."""

    def make_model(self) -> CNN:
        """The model."""
        return CNN()


class Turn:
    """Whose turn it is: nobody's."""

    uid, date, round = "0", "20200101", 1
    rng = np.random.default_rng(0)
    training: Mapping[str, Any] = {}

    def before_batch(self, batch: object, again: object) -> None:
        """Nothing is looked at."""

    def before_step(self) -> None:
        """Nothing is done here."""


def main(passes: int, seconds: Path) -> None:
    """Trains and reports."""
    paddle.seed(0)
    trainer = CNNTrainer(batch_size=BATCH, lr=LEARNING_RATE, max_grad_norm=MAX_GRAD_NORM)
    net = trainer.make_model()
    examples = dict(zip(("x", "y"), make_images(), strict=True))
    time_steps(passes, lambda: trainer.train_user(net, examples, Turn()), seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
