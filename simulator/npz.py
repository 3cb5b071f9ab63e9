"""Named arrays in an NPZ file, written whole or not at all, and read with one line for what is wrong."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from protos.codec import Array, Tensors
from protos.errors import FLError


def write_npz(path: Path, arrays: Mapping[str, Any], *, comment: str = "") -> None:
    """Writes an NPZ file, whole or not at all.

    Args:
        path: of the file.
        arrays: by name.
        comment: of the archive; `zipfile` reads it, NumPy does not care.

    Raises:
        FLError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            write_arrays(file, arrays, comment.encode())
        temporary.replace(path)
    except OSError as error:
        raise FLError(f"{path} cannot be written: {error.strerror}") from error


def write_arrays(file: BinaryIO, arrays: Mapping[str, Array], comment: bytes = b"") -> None:
    """Writes arrays as NumPy's `savez` does, without the large buffers it fills on the way."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = comment
        for name, array in arrays.items():
            whole = np.ascontiguousarray(array).reshape(array.shape)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, np.lib.format.header_data_from_array_1_0(whole))
                entry.write(whole.reshape(-1).view(np.uint8).data)


def read_npz(path: Path, what: str) -> Tensors:
    """Reads an NPZ file; nothing in it is unpickled.

    Raises:
        FLError: it cannot be read or is no such file.
    """
    try:
        # A pipe or a device would be waited for, perhaps for ever.
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        # Opened here: NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:
        # zipfile, zlib and NumPy raise a dozen kinds for damaged files.
        raise FLError(f"{what} {path}: cannot be read as an NPZ file of arrays: {_damage(error)}") from error
    for name, value in arrays.items():
        # A member that is no NPY file comes as bytes.
        if not isinstance(value, np.ndarray):
            raise FLError(f"{what} {path}: cannot be read as an NPZ file of arrays: {name} in it is no array")
    return arrays


def _damage(error: Exception) -> str:
    """What is wrong with a file, in one line."""
    said = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"an array in it is larger than the memory there is ({said})"
    if "pickle" in said:
        return "it holds objects, not plain arrays; save it with numpy.savez(file, **arrays)"
    if isinstance(error, AttributeError | TypeError):
        return "it holds one array without a name; save it with numpy.savez(file, **arrays)"
    return said[:300] or type(error).__name__
