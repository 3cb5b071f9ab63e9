"""The layers of the model as messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from protos.codec import DTYPES, MAX_RANK, TensorSpec
from protos.errors import BadInput, TooLarge
from protos.stubs import scheduler_server_pb2 as pb
from scheduler.rules.layers import Layers

# Arrays in one message: with the longest names far below the bound of a message.
BATCH = 1_000


def layers_to_messages(layers: Layers) -> Iterator[pb.ParamsMessage]:
    """As messages."""
    trains, norms = frozenset(layers.trains), frozenset(layers.norms)
    arrays = (
        pb.ModelArray(name=name, dtype=spec.dtype, shape=spec.shape, trains=name in trains, norm=name in norms)
        for name, spec in layers.specs.items()
    )
    while batch := list(islice(arrays, BATCH)):
        yield pb.ParamsMessage(model_arrays=pb.ModelArrays(arrays=batch))


def layers_from_messages(arrays: Sequence[pb.ModelArray]) -> Layers:
    """From messages.

    Raises:
        BadInput: a dtype that is none, or a name that comes twice.
        TooLarge: too many axes.
    """
    specs: dict[str, TensorSpec] = {}
    for array in arrays:
        if array.dtype not in DTYPES:
            raise BadInput(f"array {array.name!r} of the model has dtype {array.dtype[:20]!r}")
        if len(array.shape) > MAX_RANK:
            raise TooLarge(f"array {array.name!r} of the model has {len(array.shape)} axes; {MAX_RANK} are allowed")
        if array.name in specs:
            raise BadInput(f"array {array.name!r} of the model came twice")
        specs[array.name] = TensorSpec(array.dtype, tuple(array.shape))
    trains = tuple(array.name for array in arrays if array.trains)
    return Layers(specs, trains, frozenset(array.name for array in arrays if array.norm))
