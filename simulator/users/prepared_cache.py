"""What a reader's `prepare` gave, kept from run to run beside the examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simulator.days import name_within
from simulator.users.example_cache import FORMAT, digest_of, digest_of_file, read_entry, write_entry


@dataclass(frozen=True)
class PreparedUse:
    """How the answer of a reader's `prepare` is looked up: under its name, and by what it saw.

    Attributes:
        folder: of the cache.
        key: of all that it depends on but the files.
        data: the data folder.
        files: that it sees.
    """

    folder: Path
    key: str
    data: Path
    files: tuple[Path, ...]

    def read(self) -> str | None:
        """What it gave when the files were what they are; None if that is not known.

        Raises:
            Damaged: an entry that is not what was written.
            OSError: it, or a file, cannot be read.
        """
        found = read_entry(self.folder, self._name)
        if found is None:
            return None
        told = {each.uid: each.payload.decode() for each in found}
        # One look at the files only where there is something to gain.
        return told["made"] if told["files"] == self._content() else None

    def write(self, made: str, before: list[tuple[int, int, int]]) -> None:
        """Keeps what it gave, unless the files are not what they were.

        Args:
            made: JSON.
            before: what `looks` told when it began.

        Raises:
            OSError: there is no room for it, or a file is gone.
        """
        content = self._content()
        if self.looks() != before:
            return
        writer = write_entry(self.folder, self._name)
        try:
            writer.add("files", 0, content.encode())
            writer.add("made", 0, made.encode())
            writer.finish()
        finally:
            writer.drop()

    def looks(self) -> list[tuple[int, int, int]]:
        """What changes when somebody writes to one of the files; a reader may do without one that is gone."""
        return [look_of(path) for path in self.files if path.exists()]

    @property
    def _name(self) -> str:
        names = [name_within(self.data, path) for path in self.files]
        return digest_of([FORMAT, "prepared", self.key, *names])

    def _content(self) -> str:
        return digest_of(map(digest_of_file, self.files))


def look_of(path: Path) -> tuple[int, int, int]:
    """What changes with a file's content, without reading it: size, time of the last change, place.

    Raises:
        OSError: it is not there.
    """
    told = path.stat()
    return told.st_size, told.st_ctime_ns, told.st_ino
