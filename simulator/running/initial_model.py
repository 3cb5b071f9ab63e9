"""The model a run begins with: the same on every simulator, from the first one's shard or from `--init`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from protos.codec import Tensors
from protos.errors import BadInput, FLError
from scheduler.service.client import SchedulerClient
from simulator.npz import read_npz
from simulator.shards import jobs
from simulator.users.data_client import DataClient
from simulator.users.data_server import PrivateSchema


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
    client: SchedulerClient, schema: jobs.ModelSchema, private: Sequence[str], rank: int, first: int
) -> list[str]:
    """Compares the models of all simulators.

    Args:
        client: of this simulator.
        schema: of its model.
        private: names of what `take_initial` has returned, on the first simulator.
        rank: of this simulator.
        first: rank of the first simulator.

    Returns:
        The first simulator's `private`, on all.

    Raises:
        FLError: this simulator's model is not the first one's.
    """
    told = {"schema": _schema_text(schema), "private": sorted(private)}
    theirs = json.loads(client.exchange("model", json.dumps(told).encode())[first])
    if theirs["schema"] != told["schema"]:
        raise FLError(
            f"rank {rank} builds another model than rank {first}: "
            "install the same code and the same packages on every host"
        )
    return list(theirs["private"])


def spread_private_start(
    client: SchedulerClient, data: DataClient, names: Sequence[str], private: Tensors, schema: PrivateSchema
) -> Tensors:
    """Hands what private parameters begin with from the first simulator to the others, past the scheduler.

    Args:
        client: of the scheduler.
        data: of all data servers.
        names: what `agree_on_model` has returned.
        private: what `take_initial` has returned; empty on all but the first simulator.
        schema: of this simulator's data server, which takes it in on the others.

    Returns:
        What private parameters begin with, on all.

    Raises:
        FLError: it has not come.
    """
    if private:
        data.set_private_start(private)
    client.exchange("private", b"")
    got = private or schema.start
    if set(got) != set(names):
        raise FLError(f"the values of --init for private parameters have not come: {names}")
    return got


def _schema_text(schema: jobs.ModelSchema) -> str:
    parts = {"shared": schema.arrays, "private": schema.kept}
    specs = {k: {name: str(spec) for name, spec in v.items()} for k, v in parts.items()}
    return json.dumps({**specs, "together": schema.together})
