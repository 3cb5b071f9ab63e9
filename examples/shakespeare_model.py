"""LEAF's model for Shakespeare (models/shakespeare/stacked_lstm.py)."""

from __future__ import annotations

from paddle import ParamAttr, nn

from model import Classifier, LastStep


def make(characters: int = 80, hidden: int = 256) -> Classifier:
    """Eight numbers for each character, two LSTM layers, and the next character from the last output."""
    glorot = ParamAttr(initializer=nn.initializer.XavierUniform())
    return Classifier(
        nn.Embedding(characters, 8, weight_attr=glorot),
        LastStep(8, hidden, num_layers=2),
        nn.Linear(hidden, characters, weight_attr=glorot),
    )
