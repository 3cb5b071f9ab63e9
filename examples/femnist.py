"""LEAF's FEMNIST: handwritten digits and letters, a user is who wrote them.

python examples/make_data.py femnist /tmp/femnist
mpirun -np 2 python examples/femnist.py /tmp/femnist --lr 0.06 --rounds 30
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reader import Floats, Labels, LeafReader
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

if TYPE_CHECKING:
    from model import Classifier


class FemnistSettings(Settings):
    """LEAF's FEMNIST: DATA is its data/femnist/data, or what make_data.py makes."""

    # Of LEAF's paper_experiments/femnist.sh (FedAvg) and models/utils/args.py.
    lr: float = 0.004
    batch_size: int = 10
    max_grad_norm: float | None = None


class FemnistTrainer(TrainerBase):
    """SGD in small batches, in a new order each epoch."""

    def make_model(self) -> Classifier:
        """The model."""
        from femnist_model import make

        return make()


def main() -> None:
    """Settings, pieces, run: the same lines on every rank."""
    settings = parse_settings(FemnistSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    # Digits are classes 0 to 9, capitals 10 to 35, small letters 36 to 61.
    framework.set_reader(LeafReader(Floats((1, 28, 28)), Labels(62)))
    framework.set_trainer(FemnistTrainer(shuffle=True))
    framework.run()


if __name__ == "__main__":
    main()
