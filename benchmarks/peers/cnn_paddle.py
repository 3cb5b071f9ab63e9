"""The CNN in plain Paddle, as its tutorials write it; started by cnn.py.

python cnn_paddle.py PASSES SECONDS
"""

from __future__ import annotations

import sys
from pathlib import Path

import paddle
from cnn_workload import BATCH, CLASSES, LEARNING_RATE, MAX_GRAD_NORM, STEPS, make_images, time_steps
from paddle import nn
from paddle_image import image_layers


def main(passes: int, seconds: Path) -> None:
    """Trains and reports."""
    paddle.seed(0)
    net = nn.Sequential(*image_layers(CLASSES))
    clip = nn.ClipGradByGlobalNorm(MAX_GRAD_NORM)
    optimizer = paddle.optimizer.SGD(LEARNING_RATE, parameters=net.parameters(), grad_clip=clip)
    x, y = map(paddle.to_tensor, make_images())

    def train() -> None:
        for step in range(STEPS):
            rows = slice(step * BATCH, (step + 1) * BATCH)
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
            optimizer.clear_grad()

    time_steps(passes, train, seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
