"""A task as small as can be, written as the README teaches; run by tiny.py and many_users.py.

python benchmarks/tiny_task.py DATA
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson
from tiny_data import CLASSES, FEATURES

from reader import Examples, ReaderBase
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

if TYPE_CHECKING:
    from tiny_model import TinyModel


class TinyReader(ReaderBase):
    """Files are JSON: {uid: {"x": rows of numbers, "y": labels}}."""

    def read(self, path: Path) -> Iterator[tuple[str, Examples]]:
        """Yields each user."""
        for uid, user in orjson.loads(path.read_bytes()).items():
            yield uid, {"x": np.array(user["x"], "float32"), "y": np.array(user["y"], "int64")}


class TinyTrainer(TrainerBase):
    """SGD in small batches, as the base class does it."""

    def make_model(self) -> TinyModel:
        """The model."""
        from tiny_model import TinyModel  # not at the top: it imports Paddle

        return TinyModel(FEATURES, CLASSES)


class TinySettings(Settings):
    """Tiny: logistic regression on made-up users."""

    batch_size: int = 10
    lr: float = 0.1
    server_lr: float | None = 1.0


if __name__ == "__main__":
    settings = parse_settings(TinySettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(TinyReader())
    framework.set_trainer(TinyTrainer())
    framework.run()
