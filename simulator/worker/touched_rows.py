"""Holds a trainer to what it says of the rows that training can change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.codec import Tensors
from protos.errors import BadInput
from simulator.worker.model_state import ModelState, same_bytes

Rows = Mapping[str, npt.NDArray[Any]]


class TouchedRows:
    """Watches over a share's users.

    Rows that `touched_rows` leaves out are neither summed nor put back.  All others are looked
    at for the first user, so that a mistake is named at once.  After that, looking at all for
    each user would cost what saying rows saves.  A row that was changed without a word is
    found by the next user who names it, before it trains, and if there is none at the end of the share.

    Args:
        model: of the shard.
    """

    def __init__(self, model: ModelState) -> None:
        self._model = model
        self._checked = False
        self._uids: list[str] = []
        self._names: set[str] = set()

    def begin_share(self) -> None:
        """The model holds the round's parameters."""
        self._uids.clear()
        self._names.clear()

    def before(self, uid: str, rows: Rows, shared: Tensors) -> None:
        """Checks the rows a user is about to train.

        Raises:
            BadInput: a user before it has changed one of them and not said so.
        """
        for name in rows.keys() & shared.keys():
            mine = rows[name]
            self._names.add(name)
            if self._uids and not same_bytes(self._model.read(name)[mine], shared[name][mine]):
                raise self._refusal(name, shared)
        self._uids.append(uid)

    def after_training(self, rows: Rows, shared: Tensors) -> None:
        """Checks all rows, after the first user of the run that names some.

        Raises:
            BadInput: training has changed a row that was not named.
        """
        if self._checked or not rows:
            return
        for name in rows.keys() & shared.keys():
            changed = self._changed(name, shared)
            changed[rows[name]] = False
            if changed.any():
                raise self._refusal(name, shared, changed)
        self._checked = True

    def end_share(self, shared: Tensors) -> None:
        """Checks all rows: what was summed was put back, so nothing may have changed.

        Raises:
            BadInput: a user has changed one and not said so.
        """
        for name in self._model.changed(shared, sorted(self._names)):
            raise self._refusal(name, shared)

    def _changed(self, name: str, shared: Tensors) -> npt.NDArray[np.bool_]:
        """Bool (rows,)."""
        before = shared[name]
        bits = np.dtype(f"u{before.itemsize}")
        now, then = (each.reshape(len(before), -1).view(bits) for each in (self._model.read(name), before))
        changed: npt.NDArray[np.bool_] = (now != then).any(axis=1)
        return changed

    def _refusal(self, name: str, shared: Tensors, changed: npt.NDArray[np.bool_] | None = None) -> BadInput:
        row = int(np.argmax(self._changed(name, shared) if changed is None else changed))
        last = self._uids[-3:]
        who = f"uid {last[0]!r}" if len(self._uids) == 1 else f"one of {len(self._uids)} users up to {last}"
        return BadInput(
            f"{who}: touched_rows leaves out row {row} of {name!r}, which training has changed; "
            "correct the trainer's touched_rows or return {}"
        )
