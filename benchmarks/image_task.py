"""The convolutional net of most papers on made-up images; run by image_rounds.py.

python benchmarks/image_task.py DATA
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reader import Examples, ReaderBase
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

if TYPE_CHECKING:
    from model import ModelBase

CLASSES, SIDE = 10, 28


class ImageReader(ReaderBase):
    """One NPZ file: x (users, examples, 1, 28, 28) and y (users, examples)."""

    def read(self, path: Path) -> Iterator[tuple[str, Examples]]:
        """Yields each user."""
        with np.load(path) as file:
            for number, (x, y) in enumerate(zip(file["x"], file["y"], strict=True)):
                yield f"user{number:04d}", {"x": x, "y": y}


class ImageTrainer(TrainerBase):
    """SGD in small batches, as the base class does it."""

    def make_model(self) -> ModelBase:
        """The net."""
        from peers.paddle_image import image_layers

        from model import Classifier

        return Classifier(*image_layers(CLASSES))


class ImageSettings(Settings):
    """Images: a convolutional net of 582,026 parameters."""

    batch_size: int = 10
    lr: float = 0.05
    max_grad_norm: float | None = None
    server_lr: float | None = 1.0


if __name__ == "__main__":
    settings = parse_settings(ImageSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(ImageReader())
    framework.set_trainer(ImageTrainer())
    framework.run()
