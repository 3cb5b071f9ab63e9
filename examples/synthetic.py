"""LEAF's Synthetic: logistic regression, and users each of whom has another truth.

python examples/make_data.py synthetic /tmp/synthetic
mpirun -np 2 python examples/synthetic.py /tmp/synthetic --lr 0.1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from reader import Floats, Labels, LeafReader
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

if TYPE_CHECKING:
    from model import Classifier


class SyntheticSettings(Settings):
    """LEAF's Synthetic: DATA is its data/synthetic/data, or what make_data.py makes."""

    # Of LEAF's models/baseline_constants.py and models/utils/args.py.
    lr: float = 0.0003
    batch_size: int = 10
    max_grad_norm: float | None = None
    dim: int = Field(60, ge=1, description="numbers of an example")
    classes: int = Field(10, ge=2, description="classes; LEAF's own data has 5")


class SyntheticTrainer(TrainerBase):
    """SGD in small batches, in a new order each epoch."""

    takes = (*TrainerBase.takes, "dim", "classes")
    dim: int
    classes: int

    def make_model(self) -> Classifier:
        """The model."""
        from synthetic_model import make

        return make(self.dim, self.classes)


def main() -> None:
    """Settings, pieces, run: the same lines on every rank."""
    settings = parse_settings(SyntheticSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(LeafReader(Floats((settings.dim,)), Labels(settings.classes)))
    framework.set_trainer(SyntheticTrainer(shuffle=True))
    framework.run()


if __name__ == "__main__":
    main()
