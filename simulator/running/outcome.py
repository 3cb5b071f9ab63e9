"""What rank 0 of a run that `run()` has started tells of its end, in a file between processes of one machine."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from protos import errors
from protos.errors import FLError

_NAME = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """How a run has ended.

    Attributes:
        folder: of its record; "" if it has none.
        result: name of the metric that is the result; None if the trainer names none.
        stopped: why a callback had it stop; None if none did.
        error: kind of the error; None if the run is complete.
        message: of the error.
    """

    folder: str = ""
    result: str | None = None
    stopped: str | None = None
    error: str | None = None
    message: str = ""

    def write(self, folder: Path) -> None:
        """Puts it into a folder, whole or not at all."""
        part = folder / f".{_NAME}.part"
        part.write_text(json.dumps(asdict(self)), encoding="utf-8")
        part.replace(folder / _NAME)

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """What `write` has put there; None if it has not."""
        path = folder / _NAME
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def failure(self) -> FLError:
        """The error, again."""
        kind = getattr(errors, self.error or "", FLError)
        return kind(self.message) if isinstance(kind, type) and issubclass(kind, FLError) else FLError(self.message)
