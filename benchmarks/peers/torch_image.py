"""The convolutional net of the image benchmarks in PyTorch."""

from __future__ import annotations

import torch


def image_net(classes: int) -> torch.nn.Sequential:
    """Two convolutions of 5 x 5, each halved by a maximum, and two dense layers."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(32, 64, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(64 * 4 * 4, 512), torch.nn.ReLU(), torch.nn.Linear(512, classes),
    )  # fmt: skip
