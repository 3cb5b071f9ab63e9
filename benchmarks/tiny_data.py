"""Made-up users of the tiny task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

FEATURES, CLASSES = 60, 10
_USERS_A_FILE = 1000


def uid_of(number: int) -> str:
    """The name of a user."""
    return f"user{number:07d}"


def make_users(users: int, examples: int, seed: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    """Draws x (users, examples, 60), of one decimal, and labels y (users, examples)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(users, examples, FEATURES)).round(1)
    return x, rng.integers(0, CLASSES, (users, examples))


def write_users(folder: Path, users: int, examples: int) -> None:
    """Writes one day of training data, a thousand users a file, never holding more than one file."""
    day = folder / "20200101"
    day.mkdir(parents=True)
    for number, first in enumerate(range(0, users, _USERS_A_FILE)):
        x, y = make_users(min(_USERS_A_FILE, users - first), examples, seed=number)
        content = {
            uid_of(first + i): {"x": rows.tolist(), "y": labels.tolist()}
            for i, (rows, labels) in enumerate(zip(x, y, strict=True))
        }
        (day / f"train_{number:04d}.json").write_bytes(orjson.dumps(content))
