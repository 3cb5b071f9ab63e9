"""A model of any size whose training takes no time to speak of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle

from model import ModelBase


class WideModel(ModelBase):
    """One parameter of so many elements, every one of which moves."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.w = self.create_parameter([elements])

    def loss(self, batch: Mapping[str, paddle.Tensor]) -> tuple[paddle.Tensor, dict[str, tuple[Any, Any]]]:
        """The same gradient everywhere."""
        loss = self.w.sum() * batch["x"].mean()
        return loss, {"loss": (loss, 1)}
