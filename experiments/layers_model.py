"""Dense layers with a softmax."""

from __future__ import annotations

from paddle import ParamAttr, nn

from model import Classifier


def make(dim: int, classes: int, *, hidden: int, sigmoid: bool, zeros: bool) -> Classifier:
    """A stack of them.

    Args:
        dim: numbers of an example.
        classes: how many.
        hidden: units of a hidden layer with ReLU; 0 for none.
        sigmoid: whether there is one before the softmax.
        zeros: whether all begins as zeros.
    """
    start = ParamAttr(initializer=nn.initializer.Constant(0.0)) if zeros else None
    layers: list[nn.Layer] = [nn.Flatten()]
    if hidden:
        layers += [nn.Linear(dim, hidden), nn.ReLU()]
    layers.append(nn.Linear(hidden or dim, classes, weight_attr=start))
    if sigmoid:
        layers.append(nn.Sigmoid())
    return Classifier(*layers)
