"""Digits by writer: the convolutional net of most papers, on MNIST dealt out to those who wrote it.

python examples/make_data.py digits /tmp/digits
mpirun -np 2 python examples/digits.py /tmp/digits --rounds 20

DATA is a folder with MNIST's IDX files and train-writers.txt, the writer of each digit, a line an example: it is
dealt out to its writers first, each of whom is tested on a quarter of its digits.  Or it is what
`python -m reader.partition` has made of any set of images, such as Fashion-MNIST dealt out by label.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from reader import DataError, NpzReader
from reader.partition import Order, holds_plain_set, laid_out
from scheduler import BadInput
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

if TYPE_CHECKING:
    from model import Classifier

BY_WRITER = Order("natural-id('writers')", test_share=0.25)


class DigitsSettings(Settings):
    """Digits by writer: DATA has IDX files and train-writers.txt, or what python -m reader.partition has made."""

    batch_size: int = 10
    lr: float = 0.05
    max_grad_norm: float | None = None
    channels: int = Field(1, ge=1, description="of an image: 1 grey, 3 coloured")
    side: int = Field(28, ge=16, description="pixels of an image's side; CIFAR's have 32")
    classes: int = Field(10, ge=2, description="labels")

    @field_validator("data")
    @classmethod
    def _by_writer(cls, data: Path) -> Path:
        """Plain IDX files as day folders, kept under TMPDIR for the next run."""
        try:
            return laid_out(data, BY_WRITER) if holds_plain_set(data) else data
        except (BadInput, DataError) as error:
            raise PydanticCustomError("data", "{text}", {"text": str(error)}) from error


class DigitsTrainer(TrainerBase):
    """SGD in small batches, in a new order each epoch."""

    takes = (*TrainerBase.takes, "channels", "side", "classes")
    channels: int
    side: int
    classes: int

    def make_model(self) -> Classifier:
        """The model."""
        from digits_model import make

        return make(self.channels, self.side, self.classes)


def main() -> None:
    """Settings, pieces, run: the same lines on every rank."""
    settings = parse_settings(DigitsSettings)
    shape = (settings.channels, settings.side, settings.side)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(NpzReader(shape, settings.classes))
    framework.set_trainer(DigitsTrainer(shuffle=True))
    framework.run()


if __name__ == "__main__":
    main()
