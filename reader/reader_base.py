"""The reader template: how the files of a day become users with examples.  No Paddle here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

Examples = dict[str, npt.NDArray[Any]]


class DataError(ValueError):
    """Data that cannot be right; says which file, which uid, what, and what to do."""


class ReaderBase(ABC):
    """Subclass it and write `read`; the rest has defaults.

    A reader travels to the worker processes, so it holds plain values only.  Files
    are read in worker processes, each file once in the whole run.

    Attributes:
        one_day: whether DATA itself may be a day: `files` gets DATA where it has neither day folders nor a folder
            train or test.
    """

    one_day: ClassVar[bool] = False

    def files(self, day: Path, split: str) -> list[Path]:
        """The files of one day.

        Args:
            day: the folder DATA/YYYYMMDD.
            split: "train" or "test".

        Returns:
            Files named `train*` / `test*` in the folder, and those in a subfolder
            `train/` / `test/`, sorted; hidden files are left out.
        """
        found = [p for p in day.glob(f"{split}*") if p.is_file()] + [p for p in day.glob(f"{split}/*") if p.is_file()]
        return sorted(p for p in found if not p.name.startswith("."))

    def prepare(self, data: Path, train_files: Sequence[Path]) -> dict[str, Any]:
        """Makes what all readers share (a vocabulary, a scale), once in the run.

        Args:
            data: the data folder.
            train_files: of the first day.

        Returns:
            Anything that JSON can hold; every reader gets it in `setup`.
        """
        return {}

    def setup(self, shared: dict[str, Any]) -> None:
        """Takes what `prepare` returned, before the first `read`."""
        return

    def also_reads(self, data: Path) -> Sequence[Path]:
        """What `prepare`, `setup` and `read` open beside the files of the days and those that lie right beside them.

        For `--cache` alone, which keeps what `read` gives: it is read anew when one of these has changed.

        Args:
            data: the data folder.

        Returns:
            Files, or folders with all in them, such as `[data / "raw"]`.
        """
        return []

    def read_split(self, path: Path, split: str) -> Iterator[tuple[str, Examples]]:
        """As `read`, for a reader whose files hold training and test examples: `files` names them for both.

        Args:
            path: of the file.
            split: "train" or "test".
        """
        return self.read(path)

    @abstractmethod
    def read(self, path: Path) -> Iterator[tuple[str, Examples]]:
        """Yields (uid, examples) for each user of a file.

        Examples are NumPy arrays by name whose first axis counts examples, for
        instance {"x": float32 (n, 60), "y": int64 (n,)}; n >= 1 and equal for all.
        A uid may come in several files: its examples are joined in the files' order.

        Raises:
            DataError: with file and uid.
        """
