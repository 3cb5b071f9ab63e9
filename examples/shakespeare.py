"""LEAF's Shakespeare: the next character of what a role says.

python examples/make_data.py shakespeare /tmp/shakespeare
mpirun -np 2 python examples/shakespeare.py /tmp/shakespeare --rounds 20
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reader import Characters, LeafReader
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

if TYPE_CHECKING:
    from model import Classifier


class ShakespeareSettings(Settings):
    """LEAF's Shakespeare: DATA is its data/shakespeare/data, or what make_data.py makes."""

    # Of LEAF's paper_experiments/shakespeare.sh and models/utils/args.py.
    lr: float = 0.8
    batch_size: int = 10
    max_grad_norm: float | None = None


class ShakespeareTrainer(TrainerBase):
    """SGD in small batches, in a new order each epoch."""

    def make_model(self) -> Classifier:
        """The model."""
        from shakespeare_model import make

        return make()


def main() -> None:
    """Settings, pieces, run: the same lines on every rank."""
    settings = parse_settings(ShakespeareSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(LeafReader(Characters(80), Characters()))
    framework.set_trainer(ShakespeareTrainer(shuffle=True))
    framework.run()


if __name__ == "__main__":
    main()
