"""What a model's layers hold beside the values of tensors: attributes, modes, and what is registered with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import is_
from typing import Any

from protos.errors import BadInput

# What a layer has registered, by name.  A user's turn may add to them: `self.x = tensor` makes a buffer.
_REGISTRIES = ("_parameters", "_buffers", "_sub_layers", "_forward_pre_hooks", "_forward_post_hooks")
# Paddle's own note that a layer has been called.
_NOTES = frozenset(["_built"])


class LayerState:
    """One layer as the model was made, without the layers below it.

    Attributes (train or eval mode is one of them) and registries are compared and put back
    by identity, which costs microseconds.  What an attribute refers to, such as the
    content of a list, is not looked into.

    Args:
        name: the layer's within the model, "" for the model itself.
        layer: a paddle.nn.Layer.
    """

    def __init__(self, name: str, layer: Any) -> None:
        self._name, self._layer = name, layer
        self._attributes = dict(vars(layer))
        self._registries = {key: (getattr(layer, key), dict(getattr(layer, key))) for key in _REGISTRIES}
        self._structure = [self._registries[key] for key in _REGISTRIES[:3]]
        self._hooks = [self._registries[key] for key in _REGISTRIES[3:]]

    def registry_of(self, key: str) -> tuple[dict[str, Any], Any]:
        """Where a parameter or buffer of this layer is registered, and the tensor itself."""
        for kind in ("_parameters", "_buffers"):
            live, made = self._registries[kind]
            if made.get(key) is not None:
                return live, made[key]
        raise KeyError(key)

    def ties(self, names: Mapping[int, str]) -> Iterator[tuple[str, dict[str, Any], str, str]]:
        """Places of this layer whose tensor goes by the name of another place.

        Args:
            names: of the tensors, by id.

        Yields:
            The place's own name, the registry and the key in it, the tensor's name.
        """
        for kind in ("_parameters", "_buffers"):
            live, made = self._registries[kind]
            for key, tensor in made.items():
                if names.get(id(tensor), self._full(key)) != self._full(key):
                    yield self._full(key), live, key, names[id(tensor)]

    def is_whole(self) -> bool:
        """Whether parameters, buffers and layers are those that it was made with."""
        return all(_same(live, made) for live, made in self._structure if live or made)

    def check(self) -> None:
        """Refuses what a turn must not change, since it would be lost or missing for the next user.

        A tensor that forward keeps for later (`self.attention = ...`) is no harm, nor is a layer without any: it
        is forgotten.

        Raises:
            BadInput: a parameter, a persistable buffer or a layer has come or gone, or another layer is in one's place.
        """
        for kind, what in (("_parameters", "parameter"), ("_buffers", "buffer"), ("_sub_layers", "layer")):
            live, made = self._registries[kind]
            if _same(live, made):
                continue
            for key in [*made, *(key for key in live if key not in made)]:
                now, before = live.get(key), made.get(key)
                if now is before or (kind != "_sub_layers" and now is not None and before is not None):
                    continue
                if before is None and kind == "_buffers" and key in self._layer._non_persistable_buffer_names_set:
                    continue
                if kind == "_sub_layers" and not (_holds_tensors(now) or _holds_tensors(before)):
                    continue
                done = "removed" if now is None else "added" if before is None else "replaced"
                raise BadInput(
                    f"its turn has {done} {what} {self._full(key)!r}: parameters, buffers and layers must be there "
                    "from make_model on, and stay"
                )

    def _full(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def put_back(self, *, whole: bool = False) -> None:
        """Makes all of it what it was; `whole` if that is known of parameters, buffers and layers."""
        for live, made in self._hooks if whole else self._registries.values():
            if (live or made) and not _same(live, made):
                live.clear()
                live.update(made)
        now = vars(self._layer)
        if not _same(now, self._attributes):
            self._attributes.update({key: now[key] for key in _NOTES if key in now})
            now.clear()
            now.update(self._attributes)


def _holds_tensors(layer: Any) -> bool:
    return layer is not None and bool(layer.parameters() or layer.buffers())


def _same(live: dict[str, Any], made: dict[str, Any]) -> bool:
    """Whether two dictionaries hold the same objects by the same names in the same order."""
    return len(live) == len(made) and all(map(is_, live.values(), made.values())) and list(live) == list(made)
