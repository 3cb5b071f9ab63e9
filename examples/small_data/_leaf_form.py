"""Writes LEAF's form: a file with users, num_samples and user_data for train/ and one for test/."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = tuple[Sequence[Any], Sequence[Any]]  # x and y of one user


def write_leaf(out: Path, users: Mapping[str, Rows], test_share: float = 0.2, gap: int = 0) -> None:
    """Writes `train/` and `test/` as LEAF's scripts leave them, each user's last examples to the test.

    Args:
        out: the data folder.
        users: uid -> x and y, what JSON can hold, at least two of each.
        test_share: of each user's examples, at least one.
        gap: examples before the test's that nobody gets.
    """
    for split in ("train", "test"):
        data = {uid: _part(rows, split, test_share, gap) for uid, rows in users.items()}
        counts = [len(part["y"]) for part in data.values()]
        content = {"users": list(data), "num_samples": counts, "user_data": data}
        folder = out / split
        folder.mkdir()
        (folder / f"all_data_{split}.json").write_text(json.dumps(content), encoding="ascii")


def _part(rows: Rows, split: str, test_share: float, gap: int) -> dict[str, list[Any]]:
    x, y = rows
    cut = len(y) - max(1, round(test_share * len(y)))
    kept = slice(0, cut - gap) if split == "train" else slice(cut, None)
    return {"x": list(x[kept]), "y": list(y[kept])}
