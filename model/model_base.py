"""The model template: an ordinary Paddle layer that knows its loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
import paddle

Learner = Callable[[Mapping[str, npt.NDArray[Any]]], dict[str, tuple[float, float]]]


class ModelBase(paddle.nn.Layer):
    """Subclass it and write `loss`.

    Attributes:
        private: patterns (as in file names, `*` matches anything) of the parameters
            that are private: every user keeps its own, and they are never sent to the
            scheduler.  `--private` on the command line takes their place.
        frozen: patterns of the parameters and buffers that nobody changes, such as a base under adapters: the
            same for all users and in all rounds, as `make_model` draws them or `--init` gives them.  They take no
            gradients, neither travel nor are summed, and are in the files of parameters all the same.
        examples_are_independent: whether what the model makes of an example in a test is the same whatever
            else is in the batch, and in whatever order batches come.  Then it has `example_metrics`, and users
            are tested side by side.  A subclass with another `loss` has another `example_metrics`, too.
    """

    private: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    examples_are_independent: bool = False

    def learner(self, examples: Mapping[str, npt.NDArray[Any]]) -> Learner | None:
        """For a model that is faster without Paddle's operators: what does `loss` and its `backward` in one.

        Args:
            examples: that the model is to be trained on; asked for before each training.

        Returns:
            A function of a batch of these examples as arrays, which sets the gradients of the parameters that
            train and returns the metrics of `loss` as numbers.  None if there is none for these.
        """
        return None

    @abstractmethod
    def loss(self, batch: Mapping[str, paddle.Tensor]) -> tuple[paddle.Tensor, dict[str, tuple[Any, Any]]]:
        """Loss and metrics of a batch.

        Args:
            batch: tensors by name, as the reader's arrays.

        Returns:
            The scalar to minimise, and metrics as name -> (sum, count), numbers or
            one-element tensors.  Call the loss "loss" and the accuracy "top1".
        """

    def example_metrics(self, batch: Mapping[str, paddle.Tensor]) -> Mapping[str, tuple[Any, Any]]:
        """The metrics of `loss` for each example by itself, of a model with `examples_are_independent`.

        Args:
            batch: as for `loss`, with examples of several users.

        Returns:
            Name -> (sums, counts), a tensor or array of one number an example each; or one number, if it is the
            same for all.  Their sums over a batch are what `loss` says of it.
        """
        raise NotImplementedError(f"{type(self).__name__}.example_metrics")
