"""The model a run begins with: the same on every simulator, from the first one's shard or from `--init`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from protos.codec import Tensors, from_bundle, to_bundle
from protos.errors import BadInput, FLError
from protos.stubs import tensor_pb2
from scheduler.scheduler_client import SchedulerClient
from simulator import jobs
from simulator.record import read_npz


def take_initial(path: Path, schema: jobs.ModelSchema, into: Tensors) -> Tensors:
    """Writes the parameters of `--init` to the shared arrays.

    Args:
        path: of the NPZ file.
        schema: of the model.
        into: the shared parameters.

    Returns:
        Its values for private parameters.

    Raises:
        BadInput: names, shapes or dtypes are not the model's, or a value is NaN or infinity.
    """
    given, known = read_npz(path, "--init"), {**schema.shared, **schema.private}
    odd = sorted(set(given) - set(known)) + sorted(set(schema.shared) - set(given))
    if odd:
        raise BadInput(
            f"--init {path}: names do not match the model's: {', '.join(odd[:5])}; the model has {', '.join(known)}"
        )
    for name, value in given.items():
        spec = known[name]
        if value.shape != spec.shape or value.dtype.name != spec.dtype:
            raise BadInput(f"--init {path}: {name} is {value.dtype}{list(value.shape)}, the model's is {spec}")
        if not np.isfinite(value).all():
            raise BadInput(f"--init {path}: {name} holds NaN or infinity")
        if name in schema.shared:
            into[name][...] = value
    return {name: value for name, value in given.items() if name in schema.private}


def agree_on_model(
    client: SchedulerClient, schema: jobs.ModelSchema, private: Tensors, rank: int, first: int
) -> Tensors:
    """Compares the models of all simulators.

    Args:
        client: of this simulator.
        schema: of its model.
        private: what `take_initial` has returned, on the first simulator.
        rank: of this simulator.
        first: rank of the first simulator.

    Returns:
        The first simulator's `private`, on all.

    Raises:
        FLError: this simulator's model is not the first one's.
    """
    told = _schema_text(schema)
    posted = client.exchange("model", _join_bytes(told, to_bundle(private).SerializeToString()))
    first_text, first_private = _split_bytes(posted[first])
    if first_text != told:
        raise FLError(
            f"rank {rank} builds another model than rank {first}: "
            "install the same code and the same packages on every host"
        )
    return from_bundle(tensor_pb2.TensorBundle.FromString(first_private))


def _schema_text(schema: jobs.ModelSchema) -> bytes:
    parts = {"shared": schema.shared, "private": schema.private}
    return json.dumps({k: {name: str(spec) for name, spec in v.items()} for k, v in parts.items()}).encode()


def _join_bytes(first: bytes, second: bytes) -> bytes:
    return len(first).to_bytes(8, "little") + first + second


def _split_bytes(joined: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(joined[:8], "little")
    return joined[8 : 8 + size], joined[8 + size :]
