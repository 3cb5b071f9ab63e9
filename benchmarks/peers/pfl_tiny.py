"""The tiny task in pfl-research; started by tiny.py.

torchrun --standalone --nproc_per_node=2 pfl_tiny.py USERS ROUNDS COHORT SECONDS
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from pfl_rounds import Classifies, begin, train


class Regression(Classifies, torch.nn.Linear):
    """Logistic regression."""


def main(users: Path, rounds: int, cohort: int, seconds: Path) -> None:
    """Trains all rounds; the first process reports."""
    begin()
    with np.load(users) as file:
        x, y = file["x"], file["y"]
    train(Regression(x.shape[2], int(y.max()) + 1), x, y, rounds, cohort, seconds, lr=0.1, max_grad_norm=5.0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
