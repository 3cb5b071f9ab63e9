"""A task as small as can be, written as the README teaches; run by tiny.py and many_users.py.

python benchmarks/tiny_task.py DATA [--own-loss]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson
from pydantic import Field
from tiny_data import CLASSES, FEATURES

from reader import Examples, ReaderBase
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

if TYPE_CHECKING:
    from model import ModelBase


class TinyReader(ReaderBase):
    """Files are JSON: {uid: {"x": rows of numbers, "y": labels}}."""

    def read(self, path: Path) -> Iterator[tuple[str, Examples]]:
        """Yields each user."""
        for uid, user in orjson.loads(path.read_bytes()).items():
            yield uid, {"x": np.array(user["x"], "float32"), "y": np.array(user["y"], "int64")}


class TinyTrainer(TrainerBase):
    """SGD in small batches, as the base class does it."""

    takes = (*TrainerBase.takes, "own_loss")
    own_loss: bool

    def make_model(self) -> ModelBase:
        """The model."""
        from tiny_model import TinyModel, tiny_classifier  # not at the top: they import Paddle

        return TinyModel(FEATURES, CLASSES) if self.own_loss else tiny_classifier(FEATURES, CLASSES)


class TinySettings(Settings):
    """Tiny: logistic regression on made-up users."""

    own_loss: bool = Field(False, description="a model with a loss of its own")
    batch_size: int = 10
    lr: float = 0.1
    server_lr: float | None = 1.0


if __name__ == "__main__":
    settings = parse_settings(TinySettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(TinyReader())
    framework.set_trainer(TinyTrainer())
    framework.run()
