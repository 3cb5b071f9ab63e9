"""Examples of users as a shard fetches them, in their turn or before the round."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from protos.errors import FLError
from scheduler.state.rounds import TRAIN
from simulator.contracts import Examples
from simulator.users.data_client import DataClient

# Of examples fetched before their round.
FETCH_BYTES = 4 << 20


class FetchedExamples:
    """Those that are here before their user's turn.

    Args:
        client: of the users.

    Attributes:
        ahead: of the round to come, by date and uid.
    """

    def __init__(self, client: DataClient) -> None:
        self._client = client
        self.ahead: dict[tuple[str, str], Examples] = {}

    def fetch(self, date: str, uids: Iterable[str], due: Callable[[], bool]) -> None:
        """Fetches training examples in place of those that are here, until the round begins."""
        room = FETCH_BYTES
        self.clear()
        # What cannot be fetched is fetched again in its turn, and named.
        with contextlib.suppress(FLError):
            for uid in uids:
                if room < 0 or due():
                    return
                examples = self.ahead[date, uid] = self._client.get_data_by_uid(uid, date, TRAIN)
                room -= sum(rows.nbytes for rows in examples.values())

    def take(self, uid: str, date: str, split: str) -> Examples:
        """A user's examples."""
        fetched = self.ahead.pop((date, uid), None) if split == TRAIN else None
        return self._client.get_data_by_uid(uid, date, split) if fetched is None else fetched

    def clear(self) -> None:
        """The round is over: what is left is of users that another shard has trained."""
        self.ahead.clear()
