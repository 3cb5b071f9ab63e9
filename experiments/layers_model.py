"""Dense layers with a softmax."""

from __future__ import annotations

from paddle import ParamAttr, nn

from model import Classifier


def make(dim: int, classes: int, *, hidden: int, sigmoid: bool, spread: float | None) -> Classifier:
    """A stack of them.

    Args:
        dim: numbers of an example.
        classes: how many.
        hidden: units of a hidden layer with ReLU; 0 for none.
        sigmoid: whether there is one before the softmax.
        spread: weights begin evenly between this to both sides of 0; None for Glorot's, as Paddle has them.
    """
    start = None if spread is None else ParamAttr(initializer=nn.initializer.Uniform(-spread, spread))
    layers: list[nn.Layer] = [nn.Flatten()]
    if hidden:
        layers += [nn.Linear(dim, hidden, weight_attr=start), nn.ReLU()]
    layers.append(nn.Linear(hidden or dim, classes, weight_attr=start))
    if sigmoid:
        layers.append(nn.Sigmoid())
    return Classifier(*layers)
