"""A shard's view of its model: named arrays in and out, split in shared and private."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from protos.codec import DTYPES, Array, Tensors, TensorSpec
from protos.errors import BadInput
from scheduler.streams import stream_key

_NO_VIEW = (None, -1, np.empty(0))
# Up to here, putting a value back costs less than to ask whether it has changed.
_SMALL_BYTES = 64 << 10


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

    Buffers are averaged as parameters are, or kept private.  What a user's turn may change
    (values, the tensors themselves, whether they train, gradients, what is neither shared nor
    private) is put back by `ready` before the next, so that no user sees another through the model.

    Args:
        model: a paddle.nn.Layer.
        patterns: of the names that are private.

    Raises:
        BadInput: a pattern that matches nothing, a dtype that cannot be sent.
    """

    def __init__(self, model: Any, patterns: Sequence[str]) -> None:
        self.model = model
        self._slots = _slots_of(model)
        self._sizes = [(held, len(held)) for held in _held_by(model)]
        # Views of the tensors' memory: of which tensor, and where it was.
        self._views: dict[str, tuple[Any, int, Array]] = {}
        self._fixed = {
            name: slot.tensor.numpy().copy()
            for name, slot in self._slots.items()
            if not slot.tensor.is_floating_point() and slot.tensor._is_initialized()
        }
        names = [name for name, slot in self._slots.items() if slot.tensor.is_floating_point()]
        self.private = private_names(names, patterns)
        self.shared = [name for name in names if name not in self.private]
        self.specs = {name: TensorSpec.of(self._slots[name].tensor.numpy()) for name in names}
        for name, spec in self.specs.items():
            if spec.dtype not in DTYPES:
                raise BadInput(f"parameter {name!r} has dtype {spec.dtype}; use one of {sorted(DTYPES)}")
        nbytes = {name: self.specs[name].nbytes for name in self.shared}
        self._small = [name for name in self.shared if nbytes[name] <= _SMALL_BYTES]
        self._large = [name for name in self.shared if nbytes[name] > _SMALL_BYTES]

    def read(self, name: str) -> Array:
        """A parameter's value as it is now: the memory the model works on, not a copy.

        Raises:
            BadInput: a buffer was set to something of another shape or dtype, or to nothing.
        """
        tensor = self._slots[name].now
        if tensor is None:
            raise BadInput(f"{name!r} of the model is gone: it was set to None or deleted; keep it a tensor")
        known, place, view = self._views.get(name, _NO_VIEW)
        # It may be another tensor (`self.mean = ...` puts a new one in the buffer's place), or an
        # operator may have given it other memory.
        if known is not tensor or place != tensor.data_ptr():
            view = _view(tensor)
            if TensorSpec.of(view) != self.specs[name]:
                raise BadInput(
                    f"{name!r} of the model has become {TensorSpec.of(view)}, it was made as {self.specs[name]}; "
                    "set it to a tensor of the same shape and dtype"
                )
            self._views[name] = (tensor, tensor.data_ptr(), view)
        return view

    def load(self, values: Mapping[str, Array]) -> None:
        """Sets parameters in place."""
        for name, value in values.items():
            np.copyto(self.read(name), value)

    def ready(self, shared: Mapping[str, Array] | None, *, compare: bool = False) -> None:
        """Puts the model back for the next user, whatever the one before did to it.

        Private parameters are not looked at: they are loaded for every user.

        Args:
            shared: the round's parameters, which the shared ones hold but for what a user has
                replaced; None if they go on from user to user.
            compare: whether users may have changed them in place, too.  Large ones are left out,
                see `restore_large`.

        Raises:
            BadInput: a user has added or removed parameters or buffers.
        """
        if any(len(held) != size for held, size in self._sizes):
            raise BadInput("the model has other parameters or buffers than it was made with; make all in __init__")
        for name, slot in self._slots.items():
            tensor = slot.tensor
            if slot.now is not tensor:
                self._put_back(name, slot, shared)
            if tensor.stop_gradient is not slot.frozen:
                tensor.stop_gradient = slot.frozen
            if not slot.frozen and tensor.grad is not None:
                tensor.clear_gradient(False)
        if compare and shared is not None:
            for name in self._small:
                np.copyto(self.read(name), shared[name])
        for name, value in self._fixed.items():
            np.copyto(_view(self._slots[name].tensor), value)

    def restore_large(self, shared: Mapping[str, Array]) -> list[str]:
        """Puts back large parameters that differ from the round's; returns their names.

        Nothing tells of all writes: Paddle counts those of its in-place operators, but neither
        those of its optimizers nor of `set_value`.  So memory is compared.
        """
        changed = [name for name in self._large if not _same(self.read(name), shared[name])]
        for name in changed:
            np.copyto(self.read(name), shared[name])
        return changed

    def _put_back(self, name: str, slot: _Slot, shared: Mapping[str, Array] | None) -> None:
        """The tensor the model was made with, in the place of one that a user has put there."""
        value = None
        if name in self.specs:
            value = self.read(name) if shared is None else shared.get(name)
        slot.place[slot.key] = slot.tensor
        if value is not None:
            np.copyto(self.read(name), value)


@dataclass(frozen=True)
class _Slot:
    """Where a layer keeps one tensor.

    Attributes:
        place: the layer's parameters or buffers.
        key: the name there.
        tensor: the one the model was made with.
        frozen: whether it was made without a gradient.
    """

    place: dict[str, Any]
    key: str
    tensor: Any
    frozen: bool

    @property
    def now(self) -> Any:
        """The tensor that is there; None if there is none."""
        return self.place.get(self.key)


def _held_by(model: Any) -> Iterator[dict[str, Any]]:
    """The parameters and the buffers of each layer."""
    for layer in model.sublayers(include_self=True):
        yield layer._parameters
        yield layer._buffers


def _slots_of(model: Any) -> dict[str, _Slot]:
    """All tensors of a model by name, parameters first; one that is there under two names once."""
    places: dict[int, tuple[dict[str, Any], str]] = {}
    for held in _held_by(model):
        for key, tensor in held.items():
            if tensor is not None:
                places.setdefault(id(tensor), (held, key))
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: _Slot(*places[id(tensor)], tensor, tensor.stop_gradient) for name, tensor in named}


def _same(one: Array, other: Array) -> bool:
    """Whether two arrays are equal to the bit."""
    # As whole numbers: NaN would differ from itself, and -0.0 not from 0.0.
    bits = f"u{one.dtype.itemsize}"
    return bool(np.array_equal(one.reshape(-1).view(bits), other.reshape(-1).view(bits)))


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
