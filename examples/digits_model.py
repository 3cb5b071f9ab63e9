"""The convolutional net of McMahan et al. 2017, as most papers have it since: 582,026 parameters for MNIST."""

from __future__ import annotations

from paddle import nn

from model import Classifier


def make(channels: int, side: int, classes: int) -> Classifier:
    """Two convolutions of 5 x 5, each halved by a maximum, and two dense layers.

    Args:
        channels: of images (B, channels, side, side).
        side: their pixels.
        classes: labels.
    """
    after = ((side - 4) // 2 - 4) // 2  # 28 -> 24 -> 12 -> 8 -> 4
    return Classifier(
        nn.Conv2D(channels, 32, 5),  # (B, 32, 24, 24)
        nn.ReLU(),
        nn.MaxPool2D(2),  # (B, 32, 12, 12)
        nn.Conv2D(32, 64, 5),  # (B, 64, 8, 8)
        nn.ReLU(),
        nn.MaxPool2D(2),  # (B, 64, 4, 4)
        nn.Flatten(),
        nn.Linear(64 * after * after, 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )
