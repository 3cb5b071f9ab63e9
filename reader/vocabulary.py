"""Vocabularies: the most common words of the training files, and the file they are written to."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def most_common(counts: Counter[str], number: int) -> list[str]:
    """So many of the most common words, equally common ones by name."""
    return sorted(counts, key=lambda word: (-counts[word], word))[:number]


def keep_vocabulary(path: Path, content: dict[str, Any]) -> None:
    """Writes a vocabulary that was built, whole or not at all, since another run may be reading it.

    If that cannot be, a warning says so: it is for this run only.
    """
    try:
        _write(path, content)
    except OSError as error:
        logger.warning("%s cannot be written (%s): the vocabulary is kept for this run only", path, error.strerror)


def _write(path: Path, content: dict[str, Any]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".vocab")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
