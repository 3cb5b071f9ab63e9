"""Reads the comments of a pushshift dump, packed or plain, one line at a time."""

from __future__ import annotations

import bz2
import gzip
import importlib
import json
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lm_data.data_error import DataError

_PROGRESS_LINES = 1_000_000

_log = logging.getLogger(__name__)


class Comment(NamedTuple):
    """The fields of a dump's line that are used; `created` is in seconds since 1970, UTC."""

    author: str
    body: str
    subreddit: str
    created: int
    comment_id: str


def _zst_lines(path: Path) -> Iterator[bytes]:
    try:
        zstandard: Any = importlib.import_module("zstandard")
    except ImportError as error:
        raise DataError(f"{path}: a .zst file needs the zstandard package: pip install zstandard") from error
    # pushshift packs with a 2 GB window, more than the default allows.
    new_frame = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj
    tail, frame, complete = b"", new_frame(), True
    with path.open("rb") as file:
        while chunk := file.read(1 << 17):
            while chunk:
                try:
                    *lines, tail = (tail + frame.decompress(chunk)).split(b"\n")
                except zstandard.ZstdError as error:
                    raise OSError(str(error)) from error
                yield from lines
                complete = frame.eof
                chunk = frame.unused_data if complete else b""
                frame = new_frame() if complete else frame
    if not complete:
        raise EOFError("the file ends in the middle of a zstd frame")
    if tail:
        yield tail


def dump_lines(path: Path) -> Iterator[bytes]:
    """Yields the lines of a dump, unpacked by the file's suffix: .bz2, .zst, .gz, .json or .jsonl.

    Raises:
        DataError: No such file, an unknown suffix, or .zst without the zstandard package.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".zst":
        yield from _zst_lines(path)
    elif path.suffix == ".bz2":
        with bz2.open(path, "rb") as packed:
            yield from packed
    elif path.suffix == ".gz":
        with gzip.open(path, "rb") as packed:
            yield from packed
    elif path.suffix in {".json", ".jsonl"}:
        with path.open("rb") as plain:
            yield from plain
    else:
        raise DataError(f"{path}: unknown suffix {path.suffix!r}; use .bz2, .zst, .gz, .json or .jsonl")


def _parse(line: bytes) -> Comment:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    texts = []
    for name in ("author", "body", "subreddit", "id"):
        if not isinstance(record.get(name), str):
            raise ValueError(f"{name!r} is missing or not a string")
        texts.append(record[name])
    try:
        created = int(record["created_utc"])  # a string in some years
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError("'created_utc' is missing or not a number") from error
    return Comment(texts[0], texts[1], texts[2], created, texts[3])


def read_comments(path: Path) -> Iterator[Comment]:
    """Yields the comments of a dump in file order; empty lines are skipped.

    Raises:
        DataError: A line that is not a comment (names file and line), or a damaged or cut file.
    """
    number = 0
    try:
        for number, line in enumerate(dump_lines(path), start=1):
            if number % _PROGRESS_LINES == 0:
                _log.info("%s: %d lines read", path.name, number)
            if not line.strip():
                continue
            try:
                comment = _parse(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}: line {number}: malformed: {error}") from error
            yield comment
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read after line {number}: {error}") from error
