"""The server's step: exact sums become a mean, pass the filters, and move an array by its rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.codec import Array, Tensors
from protos.errors import BadInput
from scheduler.rules.exact_sum import BLOCK, Int64, Sums, row_blocks
from scheduler.rules.filters import Filter, changes_mean
from scheduler.rules.server_rule import Float64, ServerRule
from scheduler.rules.step import Step

# Changes a block of a mean in place.
OnMean = Callable[[Float64], None]


class Slots:
    """What rules keep from step to step, by the full name of an array."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, Float64]] = {}

    def of(self, name: str, rule: ServerRule, size: int) -> dict[str, Float64]:
        """The slots of an array of so many elements; made when first asked for."""
        if name not in self._held:
            self._held[name] = {slot: np.full(size, rule.initial_slot(slot)) for slot in rule.slots}
        return self._held[name]

    def state_dict(self) -> Tensors:
        """All as "array/slot" -> float64 array, flat."""
        return {f"{name}/{slot}": value for name, held in self._held.items() for slot, value in held.items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Takes back what `state_dict` gave."""
        self._held = {}
        for key, value in state.items():
            name, slot = key.rsplit("/", 1)
            self._held.setdefault(name, {})[slot] = value.astype(np.float64)


def filters_on_mean(filters: Sequence[Filter], name: str, at: Step) -> list[OnMean]:
    """What a parameter's mean passes, in order: the chain of the updates in reverse."""
    if not filters:
        return []
    at = at.of_array(name)

    def bound(number: int, each: Filter) -> OnMean:
        who, rng = f"{type(each).__name__}.on_mean", at.rng("filter", number)

        def change(mean: Float64) -> None:
            given: Any = each.on_mean(name, mean, at, rng)  # type: ignore[func-returns-value]
            if given is not None:
                raise BadInput(f"{who} returns something; it must change the mean in place")
            if not np.isfinite(mean).all():
                raise BadInput(f"{who} made the mean of parameter {name!r} NaN or infinite")

        return change

    return [bound(number, each) for number, each in reversed(list(enumerate(filters))) if changes_mean(each)]


def move(
    name: str, array: Array, sums: Sequence[Sums], factor: float, rule: ServerRule, slots: Slots, at: Step,
    on_mean: Sequence[OnMean] = (),
) -> None:  # fmt: skip
    """Moves one array in place.

    Args:
        name: full name of the array.
        array: float, any shape.
        sums: exact sums of what users have sent, of all accumulators.
        factor: `exact_sum.mean_factor`.
        rule: of its group.
        slots: of all arrays.
        at: the round.
        on_mean: see `filters_on_mean`.

    Raises:
        BadInput: a new value is not finite; the array is left half-way.
    """
    at = at.of_array(name)
    by_rows = rule.keeps_untouched and not rule.slots and not on_mean and array.ndim > 1
    if by_rows:
        touched = np.logical_or.reduce([s.touched[name] for s in sums])
        if not touched.all():
            for rows in row_blocks(np.flatnonzero(touched), math.prod(array.shape[1:])):
                some = array[rows]
                _move_flat(name, some.reshape(-1), [_gather(s, name, rows) for s in sums], factor, rule, {}, at, ())
                array[rows] = some
            return
    totals = [s.settle(name).reshape(-1) for s in sums]
    _move_flat(name, array.reshape(-1), totals, factor, rule, slots.of(name, rule, array.size), at, on_mean)


def _move_flat(
    name: str, flat: Array, totals: Sequence[Int64], factor: float, rule: ServerRule, slots: Mapping[str, Float64],
    at: Step, on_mean: Sequence[OnMean],
) -> None:  # fmt: skip
    for part, mean in _mean_blocks(totals, factor, flat.size):
        for change in on_mean:
            change(mean)
        x: Float64 = flat[part].astype(np.float64)
        new = rule.step(x, mean, {slot: values[part] for slot, values in slots.items()}, at)
        if getattr(new, "shape", None) != flat[part].shape:
            what = f"an array of shape {list(new.shape)}" if hasattr(new, "shape") else repr(new)[:60]
            raise BadInput(f"{type(rule).__name__}.step returns {what} for {name!r}; it must be {[flat[part].size]}")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused
            rounded = new.astype(flat.dtype)
        if not np.isfinite(rounded).all():
            raise BadInput(f"the server step made parameter {name!r} NaN or infinite; lower --server-lr")
        # Without -0.0, which a row that nobody touched would keep and another not.
        np.add(rounded, 0.0, out=flat[part])


def _mean_blocks(totals: Sequence[Int64], factor: float, size: int) -> Iterator[tuple[slice, Float64]]:
    room = np.empty(BLOCK, np.int64)
    for start in range(0, size, BLOCK):
        part = slice(start, start + BLOCK)
        total = totals[0][part]
        for other in totals[1:]:
            total = np.add(total, other[part], out=room[: total.size])
        mean: Float64 = total.astype(np.float64)
        mean *= factor
        yield part, mean


def _gather(sums: Sums, name: str, rows: npt.NDArray[np.intp]) -> Int64:
    """Rows of a sum, with zeros where nobody added, flat."""
    found = sums.totals[name][rows]
    found[~sums.touched[name][rows]] = 0
    return found.reshape(-1)
