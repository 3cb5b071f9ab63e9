"""What shards and simulators use to reach users' data, wherever it lives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from protos.channel import Caller
from protos.codec import Array, Tensors, assemble, tensor_chunks
from protos.errors import NotFound
from protos.gate import Keys
from protos.payloads import join_bundles, pack, pieces, unpack
from protos.stubs import data_server_pb2 as pb
from protos.stubs import data_server_pb2_grpc as pb_grpc
from scheduler.rules.streams import owner_of
from simulator.contracts import Examples
from simulator.users.examples import join_examples
from simulator.users.store import UserRecord, UserStore

# Users of a checkpoint handed over together, and their bytes.
BATCH, BATCH_BYTES = 500, 8 << 20


class DataClient:
    """Users' data by uid: from the store of this machine if it is there, else by RPC.

    Args:
        addresses: of the data servers, by rank of the simulator.
        keys: of the simulator this process belongs to.
        store: of that simulator.
    """

    def __init__(self, addresses: Mapping[int, str], keys: Keys, store: UserStore) -> None:
        self._addresses = dict(sorted(addresses.items()))
        self._ranks = tuple(self._addresses)
        self._keys, self._rank = keys, keys.rank
        self._store = store
        self._callers: dict[int, tuple[Caller, pb_grpc.DataServerStub]] = {}

    def owner(self, uid: str) -> int:
        """The rank that owns a uid."""
        return owner_of(uid, self._ranks)

    def get_data_by_uid(self, uid: str, date: str, split: str) -> Examples:
        """One user's examples of a day.

        Raises:
            NotFound: it has none.
        """
        owner = self.owner(uid)
        if owner == self._rank:
            parts = [unpack(payload) for payload in self._store.get_examples(uid, date, split)]
            if not parts:
                raise NotFound(f"uid {uid!r} has no {split} data on {date!r}")
        else:
            caller, stub = self._peer(owner)
            key = pb.UserDataKey(uid=uid, set=pb.DataSet(date=date, split=split))
            parts = list(join_bundles(caller.stream(stub.GetUserData, key)))
        return join_examples(uid, parts)

    def send_data(self, owner: int, records: Iterable[UserRecord]) -> int:
        """Hands records to the data server that owns them, in bulk; returns how many."""
        if owner == self._rank:
            return self._store.put_examples(records)
        caller, stub = self._peer(owner)

        def messages() -> Iterator[pb.UserData]:
            for record in records:
                key = pb.UserDataKey(uid=record.uid, set=pb.DataSet(date=record.date, split=record.split))
                number, place = record.order
                head: dict[str, Any] = {"key": key, "file_number": number, "place": place}
                for examples in pieces(record.payload):
                    yield pb.UserData(**head, examples=examples)
                    head = {}

        receipt = self._call(caller, stub.SendData, messages())
        return int(receipt.users)

    def get_param_by_uid(self, uid: str, step: int) -> Tensors | None:
        """One user's private parameters as they were before global round `step`; None if never stored."""
        owner = self.owner(uid)
        if owner == self._rank:
            payload = self._store.get_private(uid, step)
            return None if payload is None else unpack(payload)
        caller, stub = self._peer(owner)
        return assemble(caller.stream(stub.GetUserParams, pb.UserParamsKey(uid=uid, step=step))) or None

    def set_param_by_uid(self, uid: str, step: int, params: Mapping[str, Array]) -> None:
        """Stores one user's private parameters as trained in global round `step`."""
        owner = self.owner(uid)
        if owner == self._rank:
            self._store.put_private(uid, step, pack(params))
            return
        caller, stub = self._peer(owner)

        def messages() -> Iterator[pb.UserParams]:
            for number, chunk in enumerate(tensor_chunks(params)):
                key = pb.UserParamsKey(uid=uid, step=step) if number == 0 else None
                yield pb.UserParams(key=key, chunk=chunk)

        self._call(caller, stub.UpdateUserParams, messages())

    def restore_params(self, records: Iterable[tuple[str, int, bytes]]) -> None:
        """Hands (uid, step, parameters) of a checkpoint to the data servers that own the uids, in bulk."""
        batches: dict[int, list[tuple[str, int, bytes]]] = {}
        sizes: dict[int, int] = {}
        for uid, step, payload in records:
            owner = self.owner(uid)
            batch = batches.setdefault(owner, [])
            batch.append((uid, step, payload))
            sizes[owner] = sizes.get(owner, 0) + len(payload)
            if len(batch) >= BATCH or sizes[owner] > BATCH_BYTES:
                self._restore(owner, batch)
                batch.clear()
                sizes[owner] = 0
        for owner, batch in batches.items():
            if batch:
                self._restore(owner, batch)

    def _restore(self, owner: int, batch: Sequence[tuple[str, int, bytes]]) -> None:
        if owner == self._rank:
            self._store.restore_private(batch)
            return
        caller, stub = self._peer(owner)

        def messages() -> Iterator[pb.StoredParams]:
            for uid, step, payload in batch:
                key: pb.UserParamsKey | None = pb.UserParamsKey(uid=uid, step=step)
                for params in pieces(payload):
                    yield pb.StoredParams(key=key, params=params)
                    key = None

        self._call(caller, stub.RestoreUserParams, messages())

    def set_private_start(self, params: Mapping[str, Array]) -> None:
        """Tells all other data servers what private parameters begin with; only the first simulator may."""
        for rank in self._ranks:
            if rank != self._rank:
                caller, stub = self._peer(rank)
                self._call(caller, stub.SetPrivateStart, tensor_chunks(params))

    def clear_user_data(self, date: str, split: str) -> None:
        """Forgets a day's examples on this simulator's own data server."""
        self._store.clear_examples(date, split)

    def connect(self) -> None:
        """Connects to all data servers of other simulators now, and not when first needed: see `Caller.connect`."""
        others = [self._peer(rank) for rank in self._ranks if rank != self._rank]
        for caller, _ in others:
            caller.connect()

    def close(self) -> None:
        """Closes all connections."""
        for caller, _ in self._callers.values():
            caller.close()
        self._callers.clear()

    def _peer(self, rank: int) -> tuple[Caller, pb_grpc.DataServerStub]:
        if rank not in self._callers:
            caller = Caller(self._addresses[rank], f"the data server of rank {rank}", rank, self._keys)
            self._callers[rank] = (caller, pb_grpc.DataServerStub(caller.channel))
        return self._callers[rank]

    @staticmethod
    def _call(caller: Caller, method: Callable[..., pb.DataReceipt], messages: Iterable[object]) -> pb.DataReceipt:
        return caller.call(method, messages)
