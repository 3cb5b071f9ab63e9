"""The arrays of an NPZ file; nothing in it is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reader.reader_base import DataError


def npz_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an NPZ file, by name.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        # Opened here: NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:
        # zipfile, zlib and NumPy raise a dozen kinds for damaged files.
        raise DataError(f"{path}: cannot be read as an NPZ file of arrays: {_damage(error)}") from error
    for name, value in arrays.items():
        # A member that is no NPY file comes as bytes.
        if not isinstance(value, np.ndarray):
            raise DataError(f"{path}: cannot be read as an NPZ file of arrays: {name} in it is no array")
    return arrays


def _damage(error: Exception) -> str:
    said = " ".join(str(error).split())
    if "pickle" in said:
        return "it holds objects, which are pickles and never opened"
    if isinstance(error, AttributeError | TypeError):
        return "it holds one array without a name"
    return said[:300] or type(error).__name__
