"""Under which keys what a reader makes is kept: of all that its users depend on, or none."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.errors import BadInput
from scheduler.state.rounds import TEST, TRAIN
from simulator.contracts import Reader
from simulator.days import day_folder, held_folders, takes_one_day
from simulator.running.reader_sources import NoSource, PieceWalk, sources_of
from simulator.settings import Settings
from simulator.users.example_cache import FORMAT, CacheUse, digest_of, digest_of_file
from simulator.users.prepared_cache import PreparedUse, look_of

# Files beside those of a split that are larger are known by their times, and are not read at each start.
_LARGE_BYTES = 64 << 20


class NoKey(Exception):
    """A reader of which not all can be told that its users depend on."""


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

    def of_day(self, date: str, split: str) -> CacheUse:
        """For the files of a day and split; the same file may be of both."""
        day = day_folder(self.data, date)
        files = {path for split in (TRAIN, TEST) for path in self.reader.files(day, split)}
        around = [*self._around(self.data, ()), *self._around(day, files)]
        return CacheUse(self.folder, digest_of([self.key, self.shared, split, *around]), self.data)

    def _around(self, folder: Path, but: Iterable[Path]) -> list[str]:
        """What lies in a folder beside the files that are read: a reader may look into it."""
        found = {path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")}
        return [f"{path.name} {_known_by(path)}" for path in sorted(found - set(but))]


def check_cache(settings: Settings, reader: Reader) -> None:
    """Raises BadInput if the folder cannot be a cache's."""
    if settings.cache is None:
        return
    folder, data = settings.cache.resolve(), settings.data.resolve()
    try:
        if not folder.is_dir() and folder.exists():
            raise BadInput(f"--cache {settings.cache} is no folder")
    except OSError as error:
        raise BadInput(f"--cache {settings.cache} cannot be used: {error.strerror}") from error
    if folder == data or any(map(folder.is_relative_to, held_folders(data, one_day=takes_one_day(reader)))):
        raise BadInput(f"--cache {settings.cache} lies among the data; give a folder that holds nothing else")


def reader_cache(settings: Settings, reader: Reader) -> ReaderCache | None:
    """The cache that the settings name, if they name one.

    Raises:
        NoKey: of the reader not all can be told.
        BadInput: what the reader `also_reads` is not there.
    """
    folder = settings.cache
    if folder is None:
        return None
    data = settings.data
    attributes = getattr(reader, "__dict__", {})
    # Of all settings it is those that results depend on.
    held = {name: value.meaning() for name, value in attributes.items() if isinstance(value, Settings)}
    walk = PieceWalk(elsewhere=(Settings,) if held else ())
    parts = [FORMAT, platform.python_version(), walk.digest(reader), walk.digest(held)]
    if walk.vague:
        raise NoKey(f"of what {type(reader).__name__} holds, not all can be told, so it may read otherwise next time")
    try:
        parts += [f"{name} {told}" for name, told in sources_of(walk.modules).items()]
    except NoSource as error:
        raise NoKey(f"{error}, so nobody can tell whether it has changed") from error
    parts += [f"{path} {told}" for path, told in _also_read(reader, data)]
    return ReaderCache(folder.resolve(), data, reader, digest_of(parts))


def _also_read(reader: Reader, data: Path) -> list[tuple[str, str]]:
    tell = getattr(reader, "also_reads", None)
    found = []
    for path in tell(data) if tell is not None else ():
        if not path.exists():
            raise BadInput(f"{path}, which {type(reader).__name__} also reads, is not there; correct its also_reads")
        inside = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        names = [str(each.relative_to(data) if each.is_relative_to(data) else each) for each in inside]
        found += [(name, _known_by(each)) for name, each in zip(names, inside, strict=True)]
    return found


def _known_by(path: Path) -> str:
    try:
        look = look_of(path)
        return str(look) if look[0] > _LARGE_BYTES else digest_of_file(path)
    except OSError as error:
        # Of what cannot be read here, or is gone meanwhile, the reader cannot make anything either.
        return f"error {error.errno}"
