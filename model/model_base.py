"""The model template: an ordinary Paddle layer that knows its loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import paddle


class ModelBase(paddle.nn.Layer):
    """Subclass it and write `loss`.

    Attributes:
        private: patterns (as in file names, `*` matches anything) of the parameters
            that are private: every user keeps its own, and they are never sent to the
            scheduler.  `--private` on the command line takes their place.
    """

    private: tuple[str, ...] = ()

    @abstractmethod
    def loss(self, batch: Mapping[str, paddle.Tensor]) -> tuple[paddle.Tensor, dict[str, tuple[Any, Any]]]:
        """Loss and metrics of a batch.

        Args:
            batch: tensors by name, as the reader's arrays.

        Returns:
            The scalar to minimise, and metrics as name -> (sum, count), numbers or
            one-element tensors.  Call the loss "loss" and the accuracy "top1".
        """
