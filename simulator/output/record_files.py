"""The growing files of a record.  A crash may cut the last row, or somebody a file: what a checkpoint knows is checked.

A mark is what a checkpoint keeps of a file: how long it was, and a digest of all of that.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from protos.errors import BadInput, FLError

# Of a table that a checkpoint of an earlier version knows nothing of.
NOTHING: Mapping[str, Any] = {"size": 0, "digest": "", "rows": 0, "columns": ()}
_DIGEST = 32
_BLOCK = 1 << 20


class _Growing:
    """A file that only grows.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = 0
        self._digest = hashlib.blake2b(digest_size=_DIGEST)

    def mark(self) -> dict[str, Any]:
        """How far the file goes."""
        return {"size": self._size, "digest": self._digest.hexdigest()}

    def sync(self) -> None:
        """Returns when all of it is on the disk itself.

        Raises:
            FLError: it cannot be written.
        """
        if self._size:
            with self._writing(), self.path.open("rb+") as file:
                os.fsync(file.fileno())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FLError(f"{self.path} cannot be written: {error.strerror}; the run cannot keep its record") from error

    @contextmanager
    def _reading(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb") as file:
                yield file
        except (OSError, csv.Error, ValueError) as error:
            raise self._damaged() from error

    def _begins_as(self, file: BinaryIO, mark: Mapping[str, Any]) -> bool:
        """Whether the file's first bytes are those of a mark; it may hold more."""
        left, digest = mark["size"], hashlib.blake2b(digest_size=_DIGEST)
        while left and (block := file.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
        if left or digest.hexdigest() != mark["digest"]:
            return False
        self._size, self._digest = mark["size"], digest
        return True

    def _replace(self, content: bytes) -> None:
        """Writes the file whole or not at all."""
        temporary = self.path.with_name(f".{self.path.name}.part")
        temporary.write_bytes(content)
        temporary.replace(self.path)
        self._restart(content)

    def _restart(self, content: bytes) -> None:
        self._size, self._digest = len(content), hashlib.blake2b(content, digest_size=_DIGEST)

    def _damaged(self) -> BadInput:
        return BadInput(
            f"{self.path} does not hold what its checkpoint knows of it: it is cut off or was changed; put back a copy "
            "of it, or start the run again without --resume"
        )


class Table(_Growing):
    """A CSV file that gets columns as they come up.

    Args:
        path: of the file; it is made with the first row.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._columns: list[str] = []
        self._rows = 0

    def add(self, first: list[str], extra: Iterable[str], last: list[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows.

        Args:
            first: columns that the file begins with.
            extra: columns between those and the last, such as a metric only tests have; sorted by name.
            last: columns that it ends with.
            rows: their values.

        Raises:
            FLError: it cannot be written.
        """
        known = self._columns
        columns = [*first, *sorted({*known, *extra} - {*first, *last}), *last]
        with self._writing():
            if columns == known:
                text = _lines(columns, rows, head=False)
                with self.path.open("ab") as file:
                    file.write(text)
                self._size += len(text)
                self._digest.update(text)
            else:
                self._replace(_lines(columns, [*self._all(), *rows]))
        self._columns = columns
        self._rows += len(rows)

    def mark(self) -> dict[str, Any]:
        """As of every growing file, with the rows and columns of this moment."""
        return {**super().mark(), "rows": self._rows, "columns": self._columns}

    def check(self, mark: Mapping[str, Any]) -> None:
        """Whether the file still holds all that it did.

        Raises:
            BadInput: it does not.
        """
        self._as_of(mark)

    def cut(self, mark: Mapping[str, Any]) -> None:
        """Goes back to what the file was.

        Raises:
            BadInput: it does not hold that any more.
            FLError: it cannot be written.
        """
        content = self._as_of(mark)
        with self._writing():
            if not mark["columns"]:
                self.path.unlink(missing_ok=True)
            elif content is None:
                os.truncate(self.path, mark["size"])
            else:
                self._replace(content)
        self._columns, self._rows = list(mark["columns"]), mark["rows"]

    def _as_of(self, mark: Mapping[str, Any]) -> bytes | None:
        """The content at a mark; None if the file begins with it."""
        if not mark["columns"]:
            self._restart(b"")
            return None
        with self._reading() as file:
            if self._begins_as(file, mark):
                return None
            # Columns that came later have the whole file written anew.
            file.seek(0)
            text = file.read().decode()
            content = _lines(mark["columns"], list(islice(_parse(text), mark["rows"])))
        self._restart(content)
        if self._digest.hexdigest() != mark["digest"]:
            raise self._damaged()
        return content

    def _all(self) -> Iterator[dict[str, str]]:
        return _parse(self.path.read_bytes().decode()) if self._columns else iter(())


class Cohorts(_Growing):
    """A JSON list of the uids of each round, whole after every one of them.

    Args:
        path: of the file; `begin` makes it.
    """

    def begin(self) -> None:
        """Makes the file, with no cohort in it.

        Raises:
            OSError: it cannot be written.
        """
        self.path.write_bytes(b"[]")
        self._restart(b"[")

    def add(self, uids: Sequence[str]) -> None:
        """Puts one cohort before the closing bracket.

        Raises:
            FLError: it cannot be written.
        """
        text = f"{',' if self._size > 1 else ''}\n{json.dumps(uids, ensure_ascii=False)}".encode()
        with self._writing(), self.path.open("rb+") as file:
            file.seek(self._size)
            file.write(text + b"]")
        self._size += len(text)
        self._digest.update(text)

    def check(self, mark: Mapping[str, Any]) -> None:
        """As `Table.check`."""
        with self._reading() as file:
            if not self._begins_as(file, mark):
                raise self._damaged()

    def cut(self, mark: Mapping[str, Any]) -> None:
        """As `Table.cut`."""
        self.check(mark)
        with self._writing(), self.path.open("rb+") as file:
            file.seek(mark["size"])
            file.write(b"]")
            file.truncate()


class _Lines:
    """Takes what csv writes: with its own line end it quotes returns too, and ours is shorter."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line.removesuffix("\r\n") + "\n")


def _lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, head: bool = True) -> bytes:
    """Rows as CSV, in the one way there is: what is read and written again is the same to the byte."""
    taken = _Lines()
    writer = csv.DictWriter(taken, columns, restval="", extrasaction="ignore", lineterminator="\r\n")
    if head:
        writer.writeheader()
    writer.writerows(rows)
    return "".join(taken.lines).encode()


def _parse(text: str) -> Iterator[dict[str, str]]:
    return csv.DictReader(io.StringIO(text, newline=""))
