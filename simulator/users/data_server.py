"""Each simulator's data server: the only door to the examples and private parameters of its uids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import grpc
import numpy as np

from protos.answers import OnCrash, confirm_end
from protos.certificates import Credentials
from protos.channel import make_server
from protos.codec import Array, Tensors, TensorSpec, assemble, tensor_chunks
from protos.errors import AlreadyDone, BadInput, Forbidden, NotFound, WrongState
from protos.gate import Gate, caller_rank
from protos.payloads import join_users, pack, pieces, unpack
from protos.stubs import data_server_pb2 as pb
from protos.stubs import data_server_pb2_grpc as pb_grpc
from protos.stubs import tensor_pb2
from scheduler.state.bounds import check_date, check_uid
from simulator.users.examples import check_examples
from simulator.users.seat import Seat
from simulator.users.store import UserRecord, UserStore

# Records committed together: a whole day in one transaction would hold its pages in memory.
BATCH_BYTES = 16 << 20
MAX_STEP = 1 << 40


class PrivateSchema:
    """What private parameters look like, and begin with; known once a shard has built the model."""

    def __init__(self) -> None:
        self._specs: Mapping[str, TensorSpec] | None = None
        self._start: Tensors | None = None

    def set(self, specs: Mapping[str, TensorSpec]) -> None:
        """Tells the private parameters of the model."""
        self._specs = dict(specs)

    def check(self, uid: str, tensors: Tensors) -> None:
        """Holds one user's private parameters to the schema.

        Raises:
            WrongState: the model is not known yet.
            BadInput: other names, shapes or dtypes, or NaN or infinity.
        """
        specs = self.specs()
        for name, value in tensors.items():
            self._check_one(f"uid {uid!r}", name, value)
        if set(tensors) != set(specs):
            raise BadInput(f"uid {uid!r}: private parameters are missing: {sorted(set(specs) - set(tensors))[:5]}")

    def _check_one(self, whose: str, name: str, value: Array) -> None:
        if self.specs().get(name) != TensorSpec.of(value):
            raise BadInput(f"{whose}: private parameter {name!r} {TensorSpec.of(value)} is not the model's")
        if not np.isfinite(value).all():
            raise BadInput(f"{whose}: private parameter {name!r} holds NaN or infinity")

    def give_start(self, tensors: Tensors) -> None:
        """Takes what private parameters begin with, of some or all names.

        Raises:
            WrongState: the model is not known yet.
            AlreadyDone: that is known already.
            BadInput: another name, shape or dtype, or NaN or infinity.
        """
        if self._start is not None:
            raise AlreadyDone("what private parameters begin with has already come")
        for name, value in tensors.items():
            self._check_one("what private parameters begin with", name, value)
        self._start = tensors

    @property
    def known(self) -> bool:
        """Whether the model is known and has private parameters."""
        return bool(self._specs)

    @property
    def start(self) -> Tensors:
        """What private parameters begin with, in place of the model's own values."""
        return self._start or {}

    def specs(self) -> Mapping[str, TensorSpec]:
        """The private parameters' specs.

        Raises:
            WrongState: the model is not known yet.
        """
        if self._specs is None:
            raise WrongState("no private parameters are known yet")
        return self._specs


def start_data_server(
    store: UserStore,
    schema: PrivateSchema,
    owns: Callable[[str], bool],
    where: str,
    on_crash: OnCrash,
    gate: Gate,
    seat: Seat,
    threads: int = 8,
    credentials: Credentials | None = None,
    also: Callable[[grpc.Server], None] | None = None,
) -> tuple[grpc.Server, str]:
    """Starts a data server; returns it and its address.

    Args:
        store: of this simulator.
        schema: of the private parameters.
        owns: whether a uid belongs here.
        where: what to listen on, see `make_server`.
        on_crash: told of unforeseen exceptions.
        gate: who is let in.
        seat: of this simulator among the others.
        threads: calls under way at once.
        credentials: of this simulator, where the run spans hosts.
        also: adds what the other simulators exchange sums and parameters with, on the same server.
    """
    servicer = DataServicer(store, schema, owns, seat)

    def register(server: grpc.Server) -> None:
        pb_grpc.add_DataServerServicer_to_server(servicer, server)
        if also is not None:
            also(server)

    return make_server(register, where, threads, gate, credentials, on_crash)


class DataServicer(pb_grpc.DataServerServicer):  # type: ignore[misc]
    """See protos/data_server.proto."""

    def __init__(
        self,
        store: UserStore,
        schema: PrivateSchema,
        owns: Callable[[str], bool],
        seat: Seat,
    ) -> None:
        self._store, self._schema, self._owns, self._seat = store, schema, owns, seat

    def SendData(self, request: Iterable[pb.UserData], context: Any) -> pb.DataReceipt:  # noqa: N802, D102
        total, batch, size = 0, [], 0

        def begin(message: pb.UserData) -> None:
            self._check_owner(message.key.uid)
            split, date = check_split(message.key.set.split), check_date(message.key.set.date)
            self._seat.days.check(date, split)

        for first, examples, payload in join_users(request, "examples", begin):
            key = first.key
            check_examples(key.uid, examples)
            order = (first.file_number, first.place)
            batch.append(UserRecord(key.uid, key.set.date, key.set.split, order, payload))
            size += len(payload)
            if size > BATCH_BYTES:
                total += self._store.put_examples(batch)
                batch, size = [], 0
        return pb.DataReceipt(users=total + self._store.put_examples(batch))

    def GetUserData(self, request: pb.UserDataKey, context: Any) -> Iterator[tensor_pb2.TensorBundle]:  # noqa: N802, D102
        self._check_owner(request.uid)
        check_date(request.set.date)
        check_split(request.set.split)
        found = self._store.get_examples(request.uid, request.set.date, request.set.split)
        if not found:
            raise NotFound(f"uid {request.uid!r} has no {request.set.split} data on {request.set.date!r}")
        for payload in found:
            yield from pieces(payload)

    def ClearUserData(self, request: pb.DataSet, context: Any) -> pb.DataReceipt:  # noqa: N802, D102
        check_split(request.split)
        self._check_caller(self._seat.rank, "forgets the examples that are kept here")
        return pb.DataReceipt(users=self._store.clear_examples(check_date(request.date), request.split))

    def GetUserParams(self, request: pb.UserParamsKey, context: Any) -> Iterator[tensor_pb2.TensorChunk]:  # noqa: N802, D102
        self._check_known(request.uid)
        check_step(request.uid, request.step)
        payload = self._store.get_private(request.uid, request.step)
        if payload is not None:
            yield from tensor_chunks(unpack(payload))

    def UpdateUserParams(self, request: Iterable[pb.UserParams], context: Any) -> pb.DataReceipt:  # noqa: N802, D102
        messages = iter(request)
        first = next(messages, None)
        if first is None or not first.HasField("key"):
            raise BadInput("the first message names no uid")
        uid = first.key.uid
        self._check_known(uid)
        check_step(uid, first.key.step)

        def chunks() -> Iterator[tensor_pb2.TensorChunk]:
            yield first.chunk
            for message in messages:
                if message.HasField("key"):
                    raise BadInput(f"uid {uid!r}: only the first message names a uid")
                yield message.chunk

        tensors = assemble(chunks(), self._schema.specs())
        self._schema.check(uid, tensors)
        self._store.put_private(uid, first.key.step, pack(tensors))
        return pb.DataReceipt(users=1)

    def RestoreUserParams(self, request: Iterable[pb.StoredParams], context: Any) -> pb.DataReceipt:  # noqa: N802, D102
        total, batch, size = 0, [], 0

        def begin(message: pb.StoredParams) -> None:
            if self._store.has_examples():
                raise WrongState("private parameters of a checkpoint came after the first day was loaded")
            self._check_owner(message.key.uid)
            check_step(message.key.uid, message.key.step)

        for first, tensors, payload in join_users(request, "params", begin):
            self._schema.check(first.key.uid, tensors)
            batch.append((first.key.uid, first.key.step, payload))
            size += len(payload)
            if size > BATCH_BYTES:
                total += self._store.restore_private(batch)
                batch, size = [], 0
        if not total and not batch:
            raise BadInput("an empty stream of private parameters")
        return pb.DataReceipt(users=total + self._store.restore_private(batch))

    def SetPrivateStart(self, request: Iterable[tensor_pb2.TensorChunk], context: Any) -> pb.DataReceipt:  # noqa: N802, D102
        self._check_caller(self._seat.leader, "says what private parameters begin with")

        def chunks() -> Iterator[tensor_pb2.TensorChunk]:
            for chunk in request:
                if self._store.has_examples():
                    raise WrongState("what private parameters begin with came after the first day was loaded")
                yield chunk

        given = assemble(chunks())
        # How many tensors come is not said: more of them could be cut off.
        confirm_end(context)
        self._schema.give_start(given)
        return pb.DataReceipt()

    def _check_caller(self, rank: int, what: str) -> None:
        if caller_rank() != rank:
            raise Forbidden(f"rank {rank} alone {what}, not rank {caller_rank()}")

    def _check_owner(self, uid: str) -> None:
        if not self._owns(check_uid(uid)):
            raise WrongState(f"uid {uid!r} belongs to another data server")

    def _check_known(self, uid: str) -> None:
        self._check_owner(uid)
        if not self._store.knows(uid):
            raise NotFound(f"unknown uid {uid!r}")


def check_step(uid: str, step: int) -> int:
    """The round of the run, if it can be one.

    Raises:
        BadInput: beyond what any run has.
    """
    if step > MAX_STEP:
        raise BadInput(f"uid {uid!r}: round {step} of the run; at most {MAX_STEP} are allowed")
    return step


def check_split(split: str) -> str:
    """The split, if it is one.

    Raises:
        BadInput: neither "train" nor "test".
    """
    if split not in ("train", "test"):
        raise BadInput(f"split {split[:40]!r} is neither 'train' nor 'test'")
    return split
