"""What simulators post for all others to read: an all-gather and a barrier in one."""

from __future__ import annotations

from collections.abc import Collection

from protos.codec import MAX_NAME
from protos.errors import AlreadyDone, PeerLost, TooLarge, WrongState
from scheduler.service.run_lock import RunLock


class Posts:
    """The keys under which simulators post.

    Args:
        run: its lock, which callers hold.
    """

    def __init__(self, run: RunLock) -> None:
        self._run = run
        self._posted: dict[str, dict[int, bytes]] = {}
        self._read: dict[str, set[int]] = {}

    def exchange(self, rank: int, key: str, payload: bytes, left: Collection[int]) -> dict[int, bytes]:
        """Posts bytes under a key; returns everybody's when all have posted.

        Args:
            rank: who posts.
            key: is free again when all have read.
            payload: what.
            left: simulators that are gone for good.
        """
        if not 0 < len(key) <= MAX_NAME:
            raise TooLarge(f"rank {rank}: an exchange's key has {len(key)} characters; 1 to {MAX_NAME} are allowed")
        if rank in self._posted.get(key, ()):
            raise AlreadyDone(f"rank {rank} has already posted {key!r}")
        if left:
            raise WrongState(f"rank {rank} posts {key!r}, which ranks {sorted(left)}, who have left, never will")
        posted = self._posted.setdefault(key, {})
        posted[rank] = payload
        self._run.wake()
        try:
            self._run.wait(lambda: len(posted) == len(self._run.ranks))
        except PeerLost:
            # Nobody waits for it any more: it counts as not said, and is not kept.
            del posted[rank]
            if not posted:
                del self._posted[key]
            raise
        read = self._read.setdefault(key, set())
        read.add(rank)
        if len(read) == len(self._run.ranks):
            del self._posted[key], self._read[key]
        return dict(sorted(posted.items()))

    def check_none_waits(self, rank: int) -> None:
        """Raises WrongState if others wait for a post of this rank."""
        for key, posted in self._posted.items():
            if rank not in posted:
                raise WrongState(f"rank {rank} cannot leave: others wait until it posts {key!r}")
