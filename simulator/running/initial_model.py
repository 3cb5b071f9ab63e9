"""The model a run begins with: the same on every simulator, from the first one's shard or from `--init`."""

from __future__ import annotations

import json
import logging
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

logger = logging.getLogger(__name__)


def take_initial(path: Path, schema: jobs.ModelSchema, into: Tensors) -> tuple[Tensors, Tensors]:
    """Writes the parameters of `--init` to the shared arrays.

    Of a model with frozen parameters, the file must hold all of these, and all shared ones or none of them.

    Args:
        path: of the NPZ file.
        schema: of the model.
        into: the shared parameters.

    Returns:
        Its values for private parameters, and for frozen ones.

    Raises:
        BadInput: names, shapes or dtypes are not the model's, or a value is NaN or infinity.
    """
    given, known = read_npz(path, "--init"), {**schema.shared, **schema.private, **schema.frozen}
    base_alone = bool(schema.frozen) and not set(schema.shared) & set(given)
    needed = {**schema.frozen, **({} if base_alone else schema.shared)}
    odd = sorted(set(given) - set(known)) + sorted(set(needed) - set(given))
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
    if base_alone:
        logger.info("--init %s has the frozen parameters alone: the others begin as the model makes them", path)
    private, frozen = (
        {name: given[name] for name in names if name in given} for names in (schema.private, schema.frozen)
    )
    return private, frozen


def agree_on_model(
    client: SchedulerClient, schema: jobs.ModelSchema, private: Sequence[str], frozen: str, rank: int, first: int
) -> tuple[list[str], str]:
    """Compares the models of all simulators.

    Args:
        client: of this simulator.
        schema: of its model.
        private: names of what `take_initial` has returned, on the first simulator.
        frozen: digest of the frozen parameters, on the first simulator.
        rank: of this simulator.
        first: rank of the first simulator.

    Returns:
        The first simulator's `private` and `frozen`, on all.

    Raises:
        FLError: this simulator's model is not the first one's.
    """
    told = {"schema": _schema_text(schema), "private": sorted(private), "frozen": frozen}
    theirs = json.loads(client.exchange("model", json.dumps(told).encode())[first])
    if theirs["schema"] != told["schema"]:
        raise FLError(
            f"rank {rank} builds another model than rank {first}: "
            "install the same code and the same packages on every host"
        )
    return list(theirs["private"]), str(theirs["frozen"])


def get_frozen(client: SchedulerClient, schema: jobs.ModelSchema, digest: str, *, given: bool, rank: int) -> Tensors:
    """What of this simulator's frozen parameters is not as its shards have made it.

    Args:
        client: of the scheduler.
        schema: of this simulator's model.
        digest: of the run's.
        given: whether the run has them from `--init`.
        rank: of this simulator.

    Returns:
        All of them from the scheduler, or none.

    Raises:
        FLError: the shards have made others than those of the run.
    """
    if schema.frozen_digest == digest:
        return {}
    if not given:
        raise FLError(
            f"rank {rank} makes other frozen parameters than the first simulator: install the same packages on every "
            "host, and let make_model draw from Paddle's, NumPy's or Python's global generator, which are seeded; or "
            "give them by --init"
        )
    return client.get_frozen_params()


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
    parts = {"shared": schema.arrays, "private": schema.kept, "frozen": schema.frozen}
    specs = {k: {name: str(spec) for name, spec in v.items()} for k, v in parts.items()}
    return json.dumps({**specs, "together": schema.together})
