"""Rounds of a convolutional net in pfl-research; started by image_rounds.py.

torchrun --standalone --nproc_per_node=2 pfl_image.py USERS ROUNDS COHORT SECONDS
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from pfl_rounds import Classifies, begin, train
from torch_image import image_net


class Net(Classifies, torch.nn.Sequential):
    """The net."""


def main(users: Path, rounds: int, cohort: int, seconds: Path) -> None:
    """Trains all rounds; the first process reports."""
    begin()
    with np.load(users) as file:
        x, y = file["x"], file["y"]
    train(Net(*image_net(classes=10)), x, y, rounds, cohort, seconds, lr=0.05, max_grad_norm=None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
