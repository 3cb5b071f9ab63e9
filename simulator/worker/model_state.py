"""A shard's view of its model: named arrays in and out, split in shared and private, and all of it put back."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from protos.codec import DTYPES, Array, Tensors, TensorSpec
from protos.errors import BadInput
from scheduler.rules.layers import Layers, layer_of
from scheduler.rules.streams import stream_key
from simulator.contracts import Model, Trainer
from simulator.worker.gradients import writable_gradient
from simulator.worker.layer_state import LayerState


def seed_everything(key: int) -> None:
    """Seeds the global generators of Paddle, NumPy and Python from a stream key."""
    import paddle

    paddle.seed(key % 2**31)
    np.random.seed(key % 2**32)
    random.seed(key)


class _Switches:
    """Paddle's switches for the whole process; a user who leaves gradients off would stop all training here."""

    def __init__(self) -> None:
        import paddle

        self._paddle, self._dtype = paddle, paddle.get_default_dtype()

    def put_back(self) -> None:
        if not self._paddle.is_grad_enabled():
            self._paddle.set_grad_enabled(True)
        if self._paddle.get_default_dtype() != self._dtype:
            self._paddle.set_default_dtype(self._dtype)


def private_names(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that match one of the patterns.

    Raises:
        BadInput: a pattern matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BadInput(f"private pattern {pattern!r} matches no parameter; the model has: {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


class _Place:
    """Where a parameter or buffer belongs: its layer's registry, the tensor there and that tensor's memory.

    User code may put another tensor in its place (`self.seen = 0.9 * self.seen + x` does),
    or give the tensor other memory, another dtype or shape (`layer.to(...)`).  The tensor
    and the memory that the model was made with are kept, and come back.  Optimizers that
    hold on to either stay right.
    """

    def __init__(self, layer: LayerState, key: str) -> None:
        self._registry, self._tensor = layer.registry_of(key)
        self._key = key
        if not self._tensor.is_contiguous():
            # A view of another's memory, such as a transposed one: sums and copies go through it as one row.
            self._tensor.data = self._tensor.detach().contiguous()
        # It keeps the memory alive, too.
        self.home: Array = np.from_dlpack(self._tensor.detach())
        self._memory = self._memory_of(self._tensor)
        self._stop_gradient = self._tensor.stop_gradient

    @staticmethod
    def _memory_of(tensor: Any) -> tuple[Any, ...]:
        return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.strides  # 0.1 us each

    @property
    def tensor(self) -> Any:
        """What is there now."""
        return self._registry[self._key]

    @property
    def kept(self) -> bool:
        """Whether the tensor is still there, in its own memory."""
        return self._registry.get(self._key) is self._tensor and self._memory_of(self._tensor) == self._memory

    def copy(self) -> Array:
        """A copy of the value now."""
        return np.array(np.from_dlpack(self.tensor.detach()))

    def put_back_memory(self) -> None:
        """Gives the tensor the memory that it had, with whatever value is in there."""
        if self._memory_of(self._tensor) != self._memory:
            import paddle

            self._tensor.data = paddle.from_dlpack(self.home)

    def bring_home(self) -> None:
        """Has the tensor be in its place again, in the memory that it had."""
        self._registry[self._key] = self._tensor
        self.put_back_memory()

    def put_back_gradient(self) -> None:
        """Has the tensor take gradients, or not, as it did, and have none."""
        tensor = self._tensor
        if tensor.stop_gradient != self._stop_gradient:
            tensor.stop_gradient = self._stop_gradient
        if tensor.grad is not None:
            # Not set to zero: an optimizer takes a gradient of zero for one.
            tensor.clear_gradient(False)


class ModelState:
    """The parameters of one model, and its floating-point buffers (running means and the like).

    Buffers are averaged as parameters are, or kept private.  All else that a user's turn may
    change in the model is put back before the next user, so that no user sees another through it.

    Args:
        model: a paddle.nn.Layer.
        patterns: of the names that are private.
        also: given the model's layers, further patterns.

    Raises:
        BadInput: a pattern that matches nothing, a dtype that cannot be sent.
    """

    def __init__(
        self, model: Model, patterns: Sequence[str], also: Callable[[Layers], Sequence[str]] = lambda layers: ()
    ) -> None:
        self.model = model
        self._switches = _Switches()
        # Whether layers, parameters and buffers are known to be those of the model: after a look, until others run.
        self._whole = False
        self._named = dict(model.named_sublayers(include_self=True))
        layers = {name: LayerState(name, layer) for name, layer in self._named.items()}
        self._layers = list(layers.values())
        tensors = dict(model.named_parameters())
        fixed = {}
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                tensors[name] = buffer
            elif buffer._is_initialized():
                fixed[name] = buffer
        self.specs = {name: TensorSpec.of(tensor.numpy()) for name, tensor in tensors.items()}
        for name, spec in self.specs.items():
            if "/" in name:
                raise BadInput(f"parameter {name!r}: a name has no '/', which tells groups of arrays apart")
            if spec.dtype not in DTYPES:
                raise BadInput(f"parameter {name!r} has dtype {spec.dtype}; use one of {sorted(DTYPES)}")

        def place(name: str) -> _Place:
            layer, _, key = name.rpartition(".")
            return _Place(layers[layer], key)

        self._places = {name: place(name) for name in tensors}
        self._ties = [tie for layer in self._layers for tie in layer.ties({id(t): n for n, t in tensors.items()})]
        self._fixed = [(each, each.home.copy()) for each in map(place, fixed)]
        trains = [name for name, parameter in model.named_parameters() if not parameter.stop_gradient]
        norms = {name for name in tensors if is_batch_norm(self._named[layer_of(name)])}
        self.layers = Layers(self.specs, tuple(trains), frozenset(norms))
        self.private = private_names(list(tensors), [*patterns, *also(self.layers)])
        self.shared = [name for name in tensors if name not in self.private]
        self._is_shared = frozenset(self.shared)
        # Those that have gradients, shared and private.
        self.trained = [name for name in trains if name in self._is_shared]
        self.own = [name for name in trains if name not in self._is_shared]
        self._trains = frozenset(trains)

    def read(self, name: str) -> Array:
        """A parameter's value: the memory the model works on, or a copy if a turn has put another tensor there.

        Raises:
            BadInput: of another shape or dtype than it had.
        """
        place = self._places[name]
        if place.kept:
            return place.home
        value = place.copy()
        if (now := TensorSpec.of(value)) != self.specs[name]:
            raise BadInput(
                f"its turn has made {name!r} {now}, it was {self.specs[name]}: what is assigned to a parameter or "
                "buffer must have its shape and dtype"
            )
        return value

    def load(self, values: Mapping[str, Array]) -> None:
        """Sets parameters in place; `put_back` comes first."""
        for name, value in values.items():
            np.copyto(self._places[name].home, value)

    def gradient(self, name: str) -> Array:
        """The gradient of a parameter, which may be written to."""
        return writable_gradient(self._places[name].tensor)

    def bring_home(self) -> None:
        """Has every parameter and buffer lie in its own memory, with the value that it has now."""
        left = {name: self.read(name) for name, place in self._places.items() if not place.kept}
        for name in left:
            self._places[name].bring_home()
        self.load(left)

    def layer(self, name: str) -> Model:
        """A layer of the model, the paddle.nn.Layer."""
        return self._named[name]

    def has_gradient(self, name: str) -> bool:
        """Whether a parameter has a gradient now."""
        return self._places[name].tensor.grad is not None

    def clear_gradients(self, names: Iterable[str]) -> None:
        """Has these parameters have no gradient."""
        for name in names:
            tensor = self._places[name].tensor
            if tensor.grad is not None:
                tensor.clear_gradient(False)

    @contextmanager
    def without_gradients(self) -> Iterator[None]:
        """Has passes forth keep nothing for the way back."""
        import paddle

        with paddle.no_grad():
            yield

    def train_only(self, names: Collection[str]) -> None:
        """Has no other parameter take gradients, until `put_back`.

        Raises:
            BadInput: a name of no parameter that does.
        """
        for name in names:
            if name not in self._trains:
                raise BadInput(f"{name!r} is no parameter that trains; there are: {', '.join(sorted(self._trains))}")
        for name in self._trains.difference(names):
            self._places[name].tensor.stop_gradient = True

    def check_structure(self) -> None:
        """Refuses a turn that made another model of it; raises as `LayerState.check`."""
        self._whole = all(layer.is_whole() for layer in self._layers)
        if self._whole:
            return
        for layer in self._layers:
            layer.check()
        for tie, registry, key, name in self._ties:
            if registry[key] is not self._places[name].tensor:
                raise BadInput(
                    f"its turn has put other tensors in the places of {name!r} and {tie!r}, which are one in make_model"
                )

    def put_back(self, shared: Mapping[str, Array] | None) -> None:
        """Makes the model what it was before any user, but for the values in the memory of its parameters.

        That is: which layers, parameters and buffers there are, attributes and modes of the layers, what takes
        gradients and that none is left, buffers that are neither shared nor private, and Paddle's own switches.

        Args:
            shared: values for those shared parameters whose memory a turn has left; None to take over what
                the turn has made of them, and of private ones.
        """
        left = [name for name, place in self._places.items() if not place.kept]
        if shared is None:
            values = {name: self.read(name) for name in left}
        else:
            values = {name: shared[name] for name in left if name in self._is_shared}
        self._switches.put_back()
        for layer in self._layers:
            layer.put_back(whole=self._whole)
        self._whole = False
        for name in left:
            self._places[name].put_back_memory()
        self.load(values)
        for place in self._places.values():
            place.put_back_gradient()
        for place, value in self._fixed:
            place.put_back_memory()
            place.put_back_gradient()
            np.copyto(place.home, value)

    def changed(self, values: Mapping[str, Array], names: Iterable[str]) -> list[str]:
        """Those of the names whose memory does not hold the same bytes as `values`."""
        return [name for name in names if not same_bytes(self._places[name].home, values[name])]


def is_batch_norm(layer: Model) -> bool:
    """Whether a layer is one of Paddle's batch norms, which keep running means and variances."""
    import paddle

    return isinstance(layer, (paddle.nn.layer.norm._BatchNormBase, paddle.nn.BatchNorm))


def same_bytes(one: Array, other: Array) -> bool:
    """Whether two arrays of one shape and dtype are equal to the bit, NaN and the sign of zero included."""
    bits = np.dtype(f"u{one.itemsize}")
    return np.array_equal(one.reshape(-1).view(bits), other.reshape(-1).view(bits))


class PrivateStart:
    """The private parameters a uid starts from: the model's own initial values, drawn per uid.

    Args:
        trainer: makes the model.
        seed: of the run.
        state: of the model made with the run's own initial stream.
        given: values that take the place of the drawn ones (from `--init`).
        alike: whether all start from the same, those of the model made with the run's own initial stream.
    """

    def __init__(
        self, trainer: Trainer, seed: int, state: ModelState, given: Mapping[str, Array], *, alike: bool = False
    ) -> None:
        self._trainer, self._seed = trainer, seed
        self._names = state.private
        self._same: Tensors = {}
        if not self._names:
            return
        drawn = [name for name in self._names if name not in given]
        self._same = {name: given[name] for name in self._names if name in given}
        if alike:
            self._same |= {name: state.read(name).copy() for name in drawn}
        elif drawn:
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


def build_model(
    trainer: Trainer, seed: int, patterns: Sequence[str] | None, also: Callable[[Layers], Sequence[str]]
) -> ModelState:
    """Makes the model from the run's own initial stream.

    Args:
        trainer: makes it.
        seed: of the run.
        patterns: private names; None for those the model itself names.
        also: given the model's layers, which are private beside those.
    """
    seed_everything(stream_key(seed, "init"))
    model = trainer.make_model()
    given = getattr(model, "private", ()) if patterns is None else patterns
    return ModelState(model, given, also)
