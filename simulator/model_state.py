"""A shard's view of its model: named arrays in and out, split in shared and private."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from protos.codec import DTYPES, Array, Tensors, TensorSpec
from protos.errors import BadInput
from scheduler.streams import stream_key

_NO_VIEW = (-1, np.empty(0))


def seed_everything(key: int) -> None:
    """Seeds the global generators of Paddle, NumPy and Python from a stream key."""
    import paddle

    paddle.seed(key % 2**31)
    np.random.seed(key % 2**32)
    random.seed(key)


def private_names(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that match one of the patterns.

    Raises:
        BadInput: a pattern matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BadInput(f"private pattern {pattern!r} matches no parameter; the model has: {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


class ModelState:
    """The parameters of one model, and its floating-point buffers (running means and the like).

    Buffers are averaged as parameters are, or kept private; what is neither is put back
    before every user, so that no user sees another through the model.

    Args:
        model: a paddle.nn.Layer.
        patterns: of the names that are private.

    Raises:
        BadInput: a pattern that matches nothing, a dtype that cannot be sent.
    """

    def __init__(self, model: Any, patterns: Sequence[str]) -> None:
        self.model = model
        self._tensors = dict(model.named_parameters())
        self._fixed: dict[str, tuple[Any, Array]] = {}
        # Views of the tensors' memory, with where it was.
        self._views: dict[str, tuple[int, Array]] = {}
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                self._tensors[name] = buffer
            elif buffer._is_initialized():
                self._fixed[name] = (buffer, buffer.numpy().copy())
        self.private = private_names(list(self._tensors), patterns)
        self.shared = [name for name in self._tensors if name not in self.private]
        self.specs = {name: TensorSpec.of(tensor.numpy()) for name, tensor in self._tensors.items()}
        for name, spec in self.specs.items():
            if spec.dtype not in DTYPES:
                raise BadInput(f"parameter {name!r} has dtype {spec.dtype}; use one of {sorted(DTYPES)}")

    def read(self, name: str) -> Array:
        """A parameter's value: the memory the model works on, not a copy."""
        tensor = self._tensors[name]
        place, view = self._views.get(name, _NO_VIEW)
        # An operator may have given the tensor other memory.
        if place != tensor.data_ptr():
            view = _view(tensor)
            self._views[name] = (tensor.data_ptr(), view)
        return view

    def load(self, values: Mapping[str, Array]) -> None:
        """Sets parameters in place."""
        for name, value in values.items():
            np.copyto(self.read(name), value)

    def reset_fixed(self) -> None:
        """Puts back what is neither shared nor private."""
        for tensor, value in self._fixed.values():
            np.copyto(_view(tensor), value)


def _view(tensor: Any) -> Array:
    return np.from_dlpack(tensor.detach())


class PrivateStart:
    """The private parameters a uid starts from: the model's own initial values, drawn per uid.

    Args:
        trainer: makes the model.
        seed: of the run.
        state: of the model made with the run's own initial stream.
        given: values that take the place of the drawn ones (from `--init`).
    """

    def __init__(self, trainer: Any, seed: int, state: ModelState, given: Mapping[str, Array]) -> None:
        self._trainer, self._seed = trainer, seed
        self._names = state.private
        self._same: Tensors = {}
        if not self._names:
            return
        drawn = [name for name in self._names if name not in given]
        self._same = {name: given[name] for name in self._names if name in given}
        if drawn:
            # A model made from another stream tells which parameters are drawn at all;
            # zeros, ones and the like need no model for each uid.
            other = self._draw("probe")
            for name in drawn:
                if np.array_equal(other[name], state.read(name)):
                    self._same[name] = other[name]

    def of(self, uid: str) -> Tensors:
        """The start of one uid."""
        if len(self._same) == len(self._names):
            return self._same
        return {**self._draw(uid), **self._same}

    def _draw(self, uid: str) -> Tensors:
        seed_everything(stream_key(self._seed, "private", uid))
        tensors = ModelState(self._trainer.make_model(), ())
        return {name: tensors.read(name).copy() for name in self._names}


def build_model(trainer: Any, seed: int, patterns: Sequence[str] | None) -> ModelState:
    """Makes the model from the run's own initial stream.

    Args:
        trainer: makes it.
        seed: of the run.
        patterns: private names; None for those the model itself names.
    """
    seed_everything(stream_key(seed, "init"))
    model = trainer.make_model()
    return ModelState(model, getattr(model, "private", ()) if patterns is None else patterns)
