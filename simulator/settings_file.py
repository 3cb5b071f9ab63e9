"""A YAML file of settings: read whole and plain, or refused in one line."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from protos.errors import BadInput

# A record's config.yaml takes a line for each rank, too.
_MOST_BYTES = 8 << 20
_DEEPEST = 20


class _NotPlain(yaml.YAMLError):
    """YAML that no file of settings needs."""


class _PlainLoader(yaml.SafeLoader):
    """YAML without what makes a small file large (aliases), or hides a setting (a name that stands twice)."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise _NotPlain(f"line {line}: aliases (*name) are not read here; write it out")
        if self.depth == _DEEPEST:
            raise _NotPlain(f"line {line}: nested deeper than {_DEEPEST} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        keys: list[Any] = [key for key, _ in node.value]
        for key in keys:
            name = str(key.value).replace("-", "_")
            if name in seen:
                raise _NotPlain(f"line {key.start_mark.line + 1}: {key.value!r} stands there twice")
            seen.add(name)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def read_settings_file(path: Path, what: str, known: Collection[str]) -> dict[str, Any]:
    """The settings of a YAML file, by name; a record's config.yaml has them under a key of their own.

    Args:
        path: of the file.
        what: the flag that names it, for errors.
        known: names of all settings.

    Raises:
        BadInput: it cannot be read, or is no such file.
    """
    content = _load(path, f"{what} {path}")
    if isinstance(content, dict):
        content = content.get("settings", content)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadInput(f"{what} {path}: expected settings as name: value")
    named = {str(name).replace("-", "_"): value for name, value in content.items()}
    if named.get("data", "") is None:
        del named["data"]
    for name in ("config", "resume"):
        if named.get(name) is not None:
            raise BadInput(f"{what} {path}: {name} is for the command line only: --{name} {named[name]}")
    unknown = sorted(set(named) - set(known))
    if unknown:
        raise BadInput(f"{what} {path}: unknown setting {unknown[0]!r}; known are {', '.join(known)}")
    if not isinstance(named.get("data", ""), str | int):
        raise BadInput(f"{what} {path}: data must be the path of a folder")
    return named


def read_record(record: Path, known: Collection[str]) -> dict[str, Any]:
    """The settings of the run that is resumed; none on a host that does not see its record.

    Args:
        record: its folder.
        known: names of all settings.

    Raises:
        BadInput: as `read_settings_file`.
    """
    path = record / "config.yaml"
    try:
        if not path.is_file():
            return {}
    except OSError as error:
        raise BadInput(f"--resume {record}: {error.strerror}") from error
    settings = read_settings_file(path, "--resume", known)
    return {name: value for name, value in settings.items() if name not in ("config", "output", "resume")}


def _load(path: Path, where: str) -> Any:
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{where}: {error.strerror}") from error
    if len(raw) > _MOST_BYTES:
        raise BadInput(f"{where}: larger than {_MOST_BYTES >> 20} MiB: no file of settings")
    try:
        content = yaml.load(raw.decode("utf-8"), _PlainLoader)
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: not YAML: not UTF-8 ({error})") from error
    except _NotPlain as error:
        raise BadInput(f"{where}: {error}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        # A date that is none, a number of thousands of digits.
        raise BadInput(f"{where}: a value cannot be read: {error}") from error
    _check_texts(content, where)
    return content


def _check_texts(content: Any, where: str) -> None:
    """Refuses text that no path and no name can be."""
    if isinstance(content, dict):
        for key, value in content.items():
            _check_texts(key, where)
            _check_texts(value, where)
    elif isinstance(content, list | tuple | set):
        for value in content:
            _check_texts(value, where)
    elif isinstance(content, str):
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise BadInput(f"{where}: {content[:60]!r} is no valid text") from error
        if "\0" in content:
            raise BadInput(f"{where}: {content[:60]!r} holds a zero character")
