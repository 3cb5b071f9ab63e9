"""The convolutional net of the image benchmarks in Paddle."""

from __future__ import annotations

from paddle import nn


def image_layers(classes: int) -> list[nn.Layer]:
    """For images (B, 1, 28, 28): two convolutions of 5 x 5, each halved by a maximum, and two dense layers."""
    first = [nn.Conv2D(1, 32, 5), nn.ReLU(), nn.MaxPool2D(2)]  # (28 - 4) / 2 = 12
    second = [nn.Conv2D(32, 64, 5), nn.ReLU(), nn.MaxPool2D(2)]  # (12 - 4) / 2 = 4
    return [*first, *second, nn.Flatten(), nn.Linear(64 * 4 * 4, 512), nn.ReLU(), nn.Linear(512, classes)]
