"""The CNN in PyTorch; started by cnn.py.

python cnn_torch.py PASSES SECONDS
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from cnn_workload import BATCH, CLASSES, LEARNING_RATE, MAX_GRAD_NORM, STEPS, make_images, time_steps
from torch import nn
from torch_image import image_net


def main(passes: int, seconds: Path) -> None:
    """Trains and reports."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = image_net(CLASSES)
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE)
    x, y = map(torch.from_numpy, make_images())

    def train() -> None:
        for step in range(STEPS):
            rows = slice(step * BATCH, (step + 1) * BATCH)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), MAX_GRAD_NORM)
            optimizer.step()

    time_steps(passes, train, seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
