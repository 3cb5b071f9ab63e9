"""LEAF's model for CelebA (models/celeba/cnn.py)."""

from __future__ import annotations

import paddle
from paddle import ParamAttr, nn

from model import Classifier


def make(classes: int = 2) -> Classifier:
    """Four times convolution of 3 x 3, batch norm, pooling of 2 and ReLU; of images, uint8 (n, 3, 84, 84)."""
    layers: list[nn.Layer] = [Pixels()]
    for channels in (3, 32, 32, 32):
        layers += [
            nn.Conv2D(channels, 32, 3, padding=1, weight_attr=ParamAttr(initializer=nn.initializer.XavierUniform())),
            # LEAF takes the mean and deviation of the batch in tests, too; TensorFlow's epsilon is 0.001.
            nn.BatchNorm2D(32, epsilon=1e-3 / (255**2 if channels == 3 else 1), use_global_stats=False),
            nn.MaxPool2D(2, ceil_mode=True),  # sides of 42, 21, 11, 6
            nn.ReLU(),
        ]
    dense = nn.Linear(6 * 6 * 32, classes, weight_attr=ParamAttr(initializer=nn.initializer.XavierUniform()))
    return Classifier(*layers, nn.Flatten(), dense)


class Pixels(nn.Layer):
    """Bytes as numbers from 0 to 1.

    LEAF leaves them from 0 to 255.  The batch norm behind the first convolution takes the scale out again, from its
    output and from all gradients; variances of tens of thousands would be too much for the exact sum of a round.
    """

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """float32, of the same shape."""
        return x.astype("float32") / 255
