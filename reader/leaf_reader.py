"""Reads the JSON files that LEAF's scripts make of its data sets (Caldas et al. 2018), as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from reader.leaf_columns import Column
from reader.leaf_json import ENDINGS, read_users
from reader.reader_base import DataError, Examples, ReaderBase


class _User(msgspec.Struct):
    """One user's piece; what else stands there, as Shakespeare's raw text, is left alone."""

    x: msgspec.Raw
    y: msgspec.Raw


class LeafReader(ReaderBase):
    """LEAF's FEMNIST, Shakespeare, Sent140, CelebA and Synthetic: files, plain or .gz, one or many a day.

        LeafReader(x=Floats((1, 28, 28)), y=Labels(62))          FEMNIST
        LeafReader(x=Characters(80), y=Characters())             Shakespeare
        LeafReader(x=Words(10_000, 25, place=4), y=Labels(2))    Sent140

    A user's examples are "x" and "y", what their columns make of them.  `num_samples` is not looked at: in
    Shakespeare's test files LEAF's own scripts write more than there are.  Nor are `hierarchies`.

    Args:
        x: what becomes of x.
        y: what becomes of y.
    """

    def __init__(self, x: Column, y: Column) -> None:
        self.columns: dict[str, Column] = {"x": x, "y": y}

    def files(self, day: Path, split: str) -> list[Path]:
        """As `ReaderBase.files`, JSON only."""
        return [p for p in super().files(day, split) if p.name.endswith(ENDINGS)]

    def prepare(self, data: Path, train_files: Sequence[Path]) -> dict[str, Any]:
        """What each column needs, such as a vocabulary."""
        shared = {}
        for name, column in self.columns.items():
            shared[name] = column.prepare(data, partial(self._each_user, name, train_files))
        return shared

    def setup(self, shared: dict[str, Any]) -> None:
        """Takes it."""
        for name, column in self.columns.items():
            column.setup(shared[name])

    def also_reads(self, data: Path) -> Sequence[Path]:
        """What the columns read, such as images."""
        return [path for column in self.columns.values() for path in column.also_reads(data)]

    def read(self, path: Path) -> Iterator[tuple[str, Examples]]:
        """Yields (uid, {"x", "y"}).

        Raises:
            DataError: not LEAF's JSON; x and y of different lengths; a user with no examples; what a column refuses.
        """
        yield from read_users(path, self._examples)

    def _examples(self, piece: memoryview) -> Examples:
        user = _parsed(piece, _User)
        values = {name: self._values(name, user) for name in self.columns}
        if len(values["x"]) != len(values["y"]):
            raise DataError(f": x and y do not match: {len(values['x'])} examples in x, {len(values['y'])} in y")
        if not values["y"]:
            raise DataError(" has no examples; remove the user")
        return {name: self._encoded(name, column) for name, column in values.items()}

    def _values(self, name: str, user: _User) -> list[Any]:
        column: list[Any] = _parsed(getattr(user, name), self.columns[name].form, name)
        return column

    def _encoded(self, name: str, values: list[Any]) -> Any:
        try:
            return self.columns[name].encode(values)
        except ValueError as error:
            raise DataError(f": {name}: {error}") from error

    def _each_user(self, name: str, files: Sequence[Path], take: Callable[[list[Any]], None]) -> None:
        """Has a function take a column of every user."""

        def parse(piece: memoryview) -> None:
            values = self._values(name, _parsed(piece, _User))
            try:
                take(values)
            except ValueError as error:
                raise DataError(f": {name}: {error}") from error

        for path in files:
            for _ in read_users(path, parse):
                pass


def _parsed(piece: memoryview | msgspec.Raw, form: Any, name: str = "") -> Any:
    """A piece of JSON of a form; what is not so is told with its place, as in `x[3][5]`."""
    try:
        return msgspec.json.decode(piece, type=form)
    except msgspec.ValidationError as error:
        told = str(error) if "`$" in str(error) or not name else f"{error} - at `$`"
        raise DataError(f": not LEAF's form: {told.replace('`$', f'`{name}')}") from error
