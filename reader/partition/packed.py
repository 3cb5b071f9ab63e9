"""Files as bytes, plain or gzipped; what cannot be read is one line."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, cast

from reader.reader_base import DataError


def opened(path: Path) -> IO[bytes]:
    """A file to read from; .gz is unpacked on the way."""
    return cast(IO[bytes], gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))


def read_all(path: Path) -> bytes:
    """The content of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with opened(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    try:
        return read_all(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from error
