"""LEAF's JSON files (Caldas et al. 2018): cut in their users' pieces, which are then parsed one by one."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import orjson

from reader.reader_base import DataError

Parsed = TypeVar("Parsed")
# What the files of a day are called.
ENDINGS = (".json", ".json.gz")


class _File(msgspec.Struct):
    """A file of LEAF, cut into its users' pieces of text; num_samples and hierarchies are left alone."""

    user_data: dict[str, msgspec.Raw]
    users: msgspec.Raw = msgspec.Raw()


def read_users(path: Path, parse: Callable[[memoryview], Parsed]) -> Iterator[tuple[str, Parsed]]:
    """Yields (uid, what `parse` makes of its piece of JSON) for each user of a file.

    Args:
        path: plain, or packed if its name ends in .gz.
        parse: raises a ValueError for what is not JSON, and a `DataError` for JSON that it does not like, which
            gets file and uid put before it.

    Raises:
        DataError: with the file, and the uid if it is one user's; of what is not JSON, with line and column.
    """
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    try:
        # User by user: all of a large file at once is many times its size in objects, none of them in any cache.
        content = msgspec.json.decode(text, type=_File)
        listed = orjson.loads(memoryview(content.users)) if content.users else None
    except msgspec.ValidationError as error:
        _check_json(path, text)
        raise DataError(f"{path}: not LEAF's form: an object with user_data (uid -> x, y) was expected") from error
    except ValueError as error:
        _check_json(path, text)
        raise DataError(f"{path}: not JSON: {error}") from error
    if isinstance(listed, list):
        absent = [uid for uid in listed if uid not in content.user_data]
        if absent:
            raise DataError(f"{path}: uid {absent[0]!r} is in users but not in user_data")
    for uid, piece in content.user_data.items():
        try:
            parsed = parse(memoryview(piece))
        except DataError as error:
            raise DataError(f"{path}: uid {uid!r}{error}") from error
        except ValueError as error:
            _check_json(path, text)
            raise DataError(f"{path}: uid {uid!r}: not JSON: {error}") from error
        yield uid, parsed


def _check_json(path: Path, text: bytes) -> None:
    """Raises DataError if a file is not JSON, with line and column."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error


def read_json(path: Path) -> Any:
    """All of a small file.

    Raises:
        DataError: it cannot be read, or is not JSON.
    """
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
