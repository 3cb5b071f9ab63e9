"""A small convolutional net with batch norm over windows of a phone's sensors."""

from __future__ import annotations

from paddle import nn

from model import Classifier


def make(channels: int, classes: int) -> Classifier:
    """Two convolutions with batch norm, the mean over time, and a linear head, called `layers.4`.

    Norms are called `layers.0.norm` and `layers.2.norm`, so that `--private "*norm*"` keeps them with each person.

    Args:
        channels: of a window (channels, places).
        classes: activities.
    """
    return Classifier(
        nn.Sequential(("conv", nn.Conv1D(channels, 16, 5)), ("norm", nn.BatchNorm1D(16)), ("squash", nn.ReLU())),
        nn.MaxPool1D(2),
        nn.Sequential(("conv", nn.Conv1D(16, 32, 5)), ("norm", nn.BatchNorm1D(32)), ("squash", nn.ReLU())),
        nn.Sequential(("mean", nn.AdaptiveAvgPool1D(1)), ("flat", nn.Flatten())),
        nn.Linear(32, classes),
    )
