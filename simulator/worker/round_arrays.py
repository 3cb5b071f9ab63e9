"""What a round begins with, as a shard sees it: the shared parameters, and an algorithm's groups beside them."""

from __future__ import annotations

from collections.abc import Mapping

from protos.codec import Array, Tensors, TensorSpec
from scheduler.state.global_model import OF


class RoundArrays:
    """The arrays of all users, read-only.

    Args:
        arrays: of the model by name, of a group as "group/name".
        groups: names of the arrays of each group.
    """

    def __init__(self, arrays: Tensors, groups: Mapping[str, Mapping[str, TensorSpec]]) -> None:
        views = {name: read_only(value) for name, value in arrays.items()}
        self.groups: dict[str, dict[str, Array]] = {
            group: {name: views.pop(full_name(group, name)) for name in names} for group, names in groups.items()
        }
        self.model: Tensors = views


def full_name(group: str, name: str) -> str:
    """What an array of a group is called among all."""
    return f"{group}{OF}{name}"


def read_only(value: Array) -> Array:
    """A view that cannot be written to."""
    view: Array = value.view()
    view.flags.writeable = False
    return view
