"""The page of the tables on logistic regression and small nets: dense layers on rows of numbers.

python experiments/layers.py DATA --hidden 64

DATA is what `python -m reader.partition` has made of images, or a folder in LEAF's form with --dim numbers an example.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from reader import Floats, Labels, LeafReader, NpzReader
from scheduler import Local, Metrics, check_number, register_algorithm
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase
from trainer.algorithms import FedProx

if TYPE_CHECKING:
    from model import Classifier


@register_algorithm("stragglers")
@dataclass(frozen=True)
class Stragglers(FedProx):
    """FedProx whose users mostly do only a part of their local epochs.

    Li et al. 2020, "Federated Optimization in Heterogeneous Networks", section 5.2: a share of the users that are
    chosen does a number of epochs drawn evenly from 1 to all, the others all; what they have is taken.

    Args:
        mu: of the proximal term.
        share: of users that are slow, from 0 to 1.
    """

    share: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("share", self.share, least=0.0)
        check_number("1 - share", 1 - self.share, least=0.0)

    def train(self, local: Local) -> Metrics:
        """Some epochs, with the term."""
        slow = local.rng.random() < self.share
        epochs = int(local.rng.integers(1, local.epochs + 1)) if slow else local.epochs
        return local.train(epochs=epochs, correct=self.term(local))


class LayersSettings(Settings):
    """Dense layers: DATA is a partitioned set of images, or LEAF's."""

    batch_size: int = 10
    lr: float = 0.03
    max_grad_norm: float | None = None
    dim: int = Field(784, ge=1, description="numbers of an example")
    classes: int = Field(10, ge=2, description="labels")
    hidden: int = Field(0, ge=0, description="units of a hidden layer; 0 for logistic regression")
    sigmoid: bool = Field(False, description="a sigmoid before the softmax, as in LEAF's and FedML's nets")
    spread: float | None = Field(
        None, ge=0, description="of weights at the start, to both sides of 0; None for Glorot's"
    )


class LayersTrainer(TrainerBase):
    """SGD in small batches, in a new order each epoch."""

    takes = (*TrainerBase.takes, "dim", "classes", "hidden", "sigmoid", "spread")
    dim: int
    classes: int
    hidden: int
    sigmoid: bool
    spread: float | None

    def make_model(self) -> Classifier:
        """The model."""
        from layers_model import make

        return make(self.dim, self.classes, hidden=self.hidden, sigmoid=self.sigmoid, spread=self.spread)


def reader_of(settings: LayersSettings) -> LeafReader | NpzReader:
    """For the form in which the data is."""
    if settings.data is not None and (Path(settings.data) / "train").is_dir():
        return LeafReader(Floats((settings.dim,)), Labels(settings.classes))
    return NpzReader((1, 28, 28), settings.classes)


def main() -> None:
    """Settings, pieces, run: the same lines on every rank."""
    settings = parse_settings(LayersSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(reader_of(settings))
    framework.set_trainer(LayersTrainer(shuffle=True))
    framework.run()


if __name__ == "__main__":
    main()
