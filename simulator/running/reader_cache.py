"""Under which keys what a reader makes is kept: of all that its users depend on, or none."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.errors import BadInput
from scheduler.state.rounds import TEST, TRAIN
from simulator.checkpoints.fingerprint import Walk
from simulator.contracts import Reader
from simulator.running.reader_sources import NoSource, sources_of
from simulator.settings import Settings
from simulator.users.example_cache import FORMAT, CacheUse, PreparedUse, digest_of, digest_of_file, look_of

logger = logging.getLogger(__name__)

# Files beside those of a split that are larger are known by their times, and are not read at each start.
_LARGE_BYTES = 64 << 20


@dataclass(frozen=True)
class ReaderCache:
    """Where what a reader makes is kept.

    Attributes:
        folder: of the cache.
        data: the data folder.
        reader: the reader.
        key: of the reader as the page has made it, and of its code.
        shared: a digest of what `prepare` gave, once that is known.
    """

    folder: Path
    data: Path
    reader: Reader
    key: str
    shared: str = ""

    def prepared(self, files: Sequence[Path]) -> PreparedUse:
        """For `prepare`, which sees these files."""
        return PreparedUse(self.folder, digest_of([self.key, *self._around(self.data, ())]), self.data, tuple(files))

    def with_shared(self, shared: dict[str, Any]) -> ReaderCache:
        """The same when it is known what `prepare` gave."""
        told = digest_of([json.dumps(shared, sort_keys=True)])
        return ReaderCache(self.folder, self.data, self.reader, self.key, told)

    def of_day(self, date: str) -> CacheUse:
        """For the files of a day."""
        day = self.data / date
        files = {path for split in (TRAIN, TEST) for path in self.reader.files(day, split)}
        around = [*self._around(self.data, ()), *self._around(day, files)]
        return CacheUse(self.folder, digest_of([self.key, self.shared, *around]), self.data)

    def _around(self, folder: Path, but: Iterable[Path]) -> list[str]:
        """What lies in a folder beside the files that are read: a reader may look into it."""
        found = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        return [f"{path.name} {_known_by(path)}" for path in found if path not in set(but)]


def reader_cache(settings: Settings, reader: Reader) -> ReaderCache | None:
    """The cache that the settings name; None, with a warning, for a reader of which not all can be told.

    Raises:
        BadInput: the folder cannot be one, or what the reader `also_reads` is not there.
    """
    folder = settings.cache
    if folder is None:
        return None
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--cache {folder} is no folder")
    data, held = settings.data, {}
    for name, value in getattr(reader, "__dict__", {}).items():
        if isinstance(value, Settings):
            held[name] = value.meaning()
    walk = Walk(elsewhere=(Settings,) if held else ())
    parts = [FORMAT, platform.python_version(), walk.digest(reader), walk.digest(held)]
    kind = type(reader).__name__
    if walk.vague:
        logger.warning("--cache is not used: not all that %s holds can be told, so it may read otherwise today", kind)
        return None
    try:
        parts += [f"{name} {told}" for name, told in sources_of(reader).items()]
    except NoSource as error:
        logger.warning("--cache is not used: %s, so it cannot be told whether it has changed", error)
        return None
    parts += [f"{path} {told}" for path, told in _also_read(reader, data)]
    return ReaderCache(folder.resolve(), data, reader, digest_of(parts))


def _also_read(reader: Reader, data: Path) -> list[tuple[str, str]]:
    tell = getattr(reader, "also_reads", None)
    found = []
    for path in tell(data) if tell is not None else ():
        try:
            inside = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
            found += [
                (str(each.relative_to(data) if each.is_relative_to(data) else each), _known_by(each)) for each in inside
            ]
        except OSError as error:
            raise BadInput(f"{path}, which {type(reader).__name__} also reads: {error.strerror}") from error
    return found


def _known_by(path: Path) -> str:
    look = look_of(path)
    return str(look) if look[0] > _LARGE_BYTES else digest_of_file(path)
