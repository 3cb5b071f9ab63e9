"""What the scheduler takes from others: names, dates and weights within bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from protos.codec import MAX_NAME
from protos.errors import BadInput, TooLarge

# Of one simulator's report of a day and split; days of a run; private names.
MAX_USERS = 20_000_000
MAX_DAYS = 10_000
MAX_NAMES = 1 << 16
_DATE = re.compile(r"[0-9]{8}")


def check_uid(uid: str) -> str:
    """The uid, if it is one.

    Raises:
        TooLarge: empty or too long.
    """
    if not 0 < len(uid) <= MAX_NAME:
        raise TooLarge(f"uid {uid[:40]!r} has {len(uid)} characters; 1 to {MAX_NAME} are allowed")
    return uid


def check_date(date: str) -> str:
    """The date, if it is one.

    Raises:
        BadInput: not eight digits.
    """
    if not _DATE.fullmatch(date):
        raise BadInput(f"date {date[:40]!r} is not of the form YYYYMMDD")
    return date


def check_weight(uid: str, weight: float) -> float:
    """The weight, if it is one.

    Raises:
        BadInput: NaN, infinite or negative.
    """
    if not 0 <= weight < math.inf:
        raise BadInput(f"uid {uid!r} has weight {weight}; it must be finite and not negative")
    return weight


def check_private_names(names: Sequence[str]) -> Sequence[str]:
    """The names of private parameters, if they can be.

    Raises:
        TooLarge: too many, empty or too long.
    """
    if len(names) > MAX_NAMES:
        raise TooLarge(f"more than {MAX_NAMES} private names")
    for name in names:
        check_name("a private parameter's name", name)
    return names


def check_name(what: str, name: str) -> None:
    """Raises TooLarge if a name is empty or too long."""
    if not 0 < len(name) <= MAX_NAME:
        raise TooLarge(f"{what} has {len(name)} characters; 1 to {MAX_NAME} are allowed")
