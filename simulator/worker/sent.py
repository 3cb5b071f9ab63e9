"""What a user sends: the model's update, arrays of groups, scalars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from protos.codec import Array
from protos.errors import BadInput
from scheduler.rules.exact_sum import ExactSum, scale_exponent
from scheduler.rules.metrics import Pair
from simulator.worker.model_update import ModelUpdate, Rows
from simulator.worker.round_arrays import full_name


class Sent:
    """All of it, until it is added to the sums of a share.

    Args:
        uid: of the user.
        groups: their arrays as the round began.
    """

    def __init__(self, uid: str, groups: Mapping[str, Mapping[str, Array]]) -> None:
        self._uid, self._groups = uid, groups
        self._arrays: dict[str, Mapping[str, Array]] = {}
        self.scalars: dict[str, Pair] = {}

    def add_group(self, group: str, arrays: Mapping[str, Array]) -> None:
        """See `Local.send`."""
        there = self._groups.get(group, {})
        for name, value in arrays.items():
            if name not in there or value.shape != there[name].shape:
                raise BadInput(
                    f"uid {self._uid!r}: the algorithm sends {name!r} {list(value.shape)} of group {group!r}, which "
                    f"has { {n: list(a.shape) for n, a in there.items()} }"
                )
        self._arrays[group] = arrays

    def add_scalar(self, name: str, value: float, count: float) -> None:
        """See `Local.scalar`."""
        total, counted = self.scalars.get(name, (0.0, 0.0))
        total, counted = total + float(value), counted + float(count)
        if not (math.isfinite(total) and math.isfinite(counted) and counted >= 0):
            raise BadInput(
                f"uid {self._uid!r}: scalar {name!r} is ({value}, {count}): its training diverged; lower --lr"
            )
        self.scalars[name] = total, counted

    @property
    def more(self) -> str:
        """What is sent beside the model, for errors; "" if nothing."""
        return ", ".join([*(f"group {g!r}" for g in self._arrays), *(f"scalar {s!r}" for s in self.scalars)])

    def add_to(
        self, exact: ExactSum, update: ModelUpdate, weight: float, cohort_size: int, equal: Iterable[str], rows: Rows
    ) -> None:
        """Adds all to the sums of a share.

        Args:
            exact: of the share.
            update: of the model.
            weight: of the user.
            cohort_size: users of the whole cohort.
            equal: groups in whose mean each user counts as one.
            rows: see `ModelUpdate.add_to`.
        """
        update.add_to(exact, weight, rows)
        for group, arrays in self._arrays.items():
            one = group in equal
            exponent = scale_exponent((1.0,) * cohort_size) if one else None
            for name, value in arrays.items():
                exact.add(full_name(group, name), value, 1.0 if one else weight, self._uid, exponent)
