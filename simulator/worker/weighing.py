"""The weight of a user in the mean of deltas, as its trainer says."""

from __future__ import annotations

import math

from protos.errors import BadInput
from simulator.contracts import Examples, Trainer


def weight_of(trainer: Trainer, uid: str, examples: Examples) -> float:
    """A user's weight: finite, and not negative.

    Raises:
        BadInput: the trainer says something else.
    """
    said = trainer.weight(examples)
    try:
        weight = float(said)
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise BadInput(
            f"uid {uid!r}: {type(trainer).__name__}.weight gave {said}; a weight must be a finite number and not "
            "negative (0 for a user that does not count)"
        )
    return weight


def weight_of_piece(trainer: Trainer, uid: str, examples: Examples) -> float | None:
    """The weight of a user if these are all its examples, None if they cannot be weighed.

    More of them may be in another file, and only all together need have a weight.  What cannot be
    weighed here is weighed again when all are there, and what is wrong with it is said then.
    """
    try:
        return weight_of(trainer, uid, examples)
    except Exception:  # noqa: BLE001 - of whatever kind, see above
        return None


def check_same_weight(trainer: Trainer, uid: str, now: float, told: float) -> None:
    """Raises BadInput if a user's weight in a round is not the one it had when its data was loaded."""
    if now != told:
        raise BadInput(
            f"uid {uid!r}: {type(trainer).__name__}.weight gave {told} when the data was loaded and {now} in the "
            "round; it must depend on the examples alone"
        )
