"""LEAF's CelebA: who smiles, a user is whose pictures they are.

python examples/make_data.py celeba /tmp/celeba
mpirun -np 2 python examples/celeba.py /tmp/celeba --rounds 20
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reader import Images, Labels, LeafReader
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

if TYPE_CHECKING:
    from model import Classifier


class CelebaSettings(Settings):
    """LEAF's CelebA: DATA is its data/celeba/data, with raw/img_align_celeba in it, or what make_data.py makes."""

    # Of LEAF's models/baseline_constants.py and models/utils/args.py.
    lr: float = 0.1
    batch_size: int = 10
    max_grad_norm: float | None = None


class CelebaTrainer(TrainerBase):
    """SGD in small batches, in a new order each epoch."""

    def make_model(self) -> Classifier:
        """The model."""
        from celeba_model import make

        return make()


def main() -> None:
    """Settings, pieces, run: the same lines on every rank."""
    settings = parse_settings(CelebaSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(LeafReader(Images(settings.data / "raw" / "img_align_celeba", 84), Labels(2)))
    framework.set_trainer(CelebaTrainer(shuffle=True))
    framework.run()


if __name__ == "__main__":
    main()
