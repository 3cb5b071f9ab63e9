"""LEAF's model for FEMNIST (models/femnist/cnn.py)."""

from __future__ import annotations

from paddle import ParamAttr, nn

from model import Classifier


def make(classes: int = 62) -> Classifier:
    """Two convolutions of 5 x 5, each with a pooling of 2, and 2048 hidden; of images (n, 1, 28, 28)."""
    weight = ParamAttr(initializer=nn.initializer.XavierUniform())
    return Classifier(
        nn.Conv2D(1, 32, 5, padding=2, weight_attr=weight),  # (n, 32, 28, 28)
        nn.ReLU(),
        nn.MaxPool2D(2),
        nn.Conv2D(32, 64, 5, padding=2, weight_attr=weight),  # (n, 64, 14, 14)
        nn.ReLU(),
        nn.MaxPool2D(2),
        nn.Flatten(),
        nn.Linear(7 * 7 * 64, 2048, weight_attr=weight),
        nn.ReLU(),
        nn.Linear(2048, classes, weight_attr=weight),
    )
