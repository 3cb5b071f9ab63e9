"""A shard's view of its model: named arrays in and out, split in shared and private, and all of it put back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import numpy as np

from protos.codec import DTYPES, Array, Tensors, TensorSpec
from protos.errors import BadInput
from scheduler.rules.layers import Layers, layer_of
from simulator.contracts import Model
from simulator.worker.global_switches import Switches
from simulator.worker.gradients import writable_gradient
from simulator.worker.layer_state import LayerState
from simulator.worker.place import Place


def private_names(names: Sequence[str], patterns: Sequence[str], kind: str = "private") -> list[str]:
    """The names that match one of the patterns.

    Raises:
        BadInput: a pattern matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BadInput(f"{kind} pattern {pattern!r} matches no parameter; the model has: {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


class ModelState:
    """The parameters of one model, and its floating-point buffers (running means and the like).

    Buffers are averaged as parameters are, or kept private.  All else that a user's turn may
    change in the model is put back before the next user, so that no user sees another through it.

    What is frozen (see `ModelBase.frozen`) is neither shared nor private: it takes no gradient, and
    whatever a turn makes of it is put back.

    Args:
        model: a paddle.nn.Layer.
        patterns: of the names that are private.
        also: given the model's layers, further patterns.

    Raises:
        BadInput: a pattern that matches nothing, a dtype that cannot be sent, a name that is private and frozen.
    """

    def __init__(
        self, model: Model, patterns: Sequence[str], also: Callable[[Layers], Sequence[str]] = lambda layers: ()
    ) -> None:
        self.model = model
        self._switches = Switches()
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

        self.frozen = private_names(list(tensors), getattr(model, "frozen", ()), "frozen")
        for name in self.frozen:
            tensors[name].stop_gradient = True

        def place(name: str) -> Place:
            layer, _, key = name.rpartition(".")
            return Place(layers[layer], key)

        self._places = {name: place(name) for name in tensors}
        self._ties = [tie for layer in self._layers for tie in layer.ties({id(t): n for n, t in tensors.items()})]
        self._fixed = [(each, each.home.copy()) for each in map(place, fixed)]
        self._frozen = [(self._places[name], self._places[name].home.copy()) for name in self.frozen]
        trains = [name for name, parameter in model.named_parameters() if not parameter.stop_gradient]
        norms = {name for name in tensors if is_batch_norm(self._named[layer_of(name)])}
        # What is frozen is no part of what algorithms choose from.
        self.layers = Layers(
            {name: spec for name, spec in self.specs.items() if name not in self.frozen},
            tuple(trains),
            frozenset(norms.difference(self.frozen)),
        )
        self.private = private_names(list(tensors), [*patterns, *also(self.layers)])
        both = sorted(set(self.private).intersection(self.frozen))
        if both:
            raise BadInput(
                f"parameter {both[0]!r} is private and frozen: a user has nothing of its own in what never changes; "
                "leave it out of --private, or out of the model's `frozen`"
            )
        self.shared = [name for name in tensors if name not in self.private and name not in self.frozen]
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

    def frozen_values(self) -> Tensors:
        """Copies of the frozen parameters."""
        return {name: value.copy() for name, (_, value) in zip(self.frozen, self._frozen, strict=True)}

    def set_frozen(self, values: Mapping[str, Array]) -> None:
        """Has frozen parameters be others from now on, all of them or none."""
        for name, (_, value) in zip(self.frozen, self._frozen, strict=True):
            if values:
                np.copyto(value, values[name])
        self.put_back(None)

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
        """Refuses a turn that made another model of it, or trained what is frozen; raises as `LayerState.check`."""
        for name in self.frozen:
            if not self._places[name].tensor.stop_gradient:
                raise BadInput(
                    f"its turn lets {name!r} take gradients, which the model names frozen: it is put back after each "
                    "user; leave it out of `frozen`, or stop_gradient as it is"
                )
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
        for place, value in [*self._fixed, *self._frozen]:
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
