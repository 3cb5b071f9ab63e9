"""LEAF's model for Synthetic (models/synthetic/log_reg.py)."""

from __future__ import annotations

from paddle import ParamAttr, nn

from model import Classifier


def make(dim: int, classes: int) -> Classifier:
    """Logistic regression with a sigmoid before the softmax.

    LEAF's net has it (so has FedML's), though a softmax on logits is what its name says: numbers between 0 and 1
    keep the loss above log(1 + (classes - 1) / e), and gradients small.  It is kept, to be comparable.
    """
    weight = ParamAttr(initializer=nn.initializer.XavierUniform())
    return Classifier(nn.Linear(dim, classes, weight_attr=weight), nn.Sigmoid())
