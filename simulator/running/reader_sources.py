"""What a reader's code is: a digest of its own file and of those it imports, and versions of installed packages."""

from __future__ import annotations

import ast
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from simulator.checkpoints.fingerprint import FUNCTIONS, Walk
from simulator.users.example_cache import digest_of_file

# This very program: what a reader gets to see of it is held to by the cache's format.
_ROOT = Path(__file__).resolve().parents[2]
_OURS = frozenset(_ROOT / name for name in ("protos", "scheduler", "simulator", "trainer", "model"))


class NoSource(Exception):
    """A class whose source is in no file."""


class PieceWalk(Walk):
    """A look at an object that also finds whose code may run in it.

    Attributes:
        modules: of its class and base classes, and of those of all that it holds; of functions too.
    """

    def __init__(self, elsewhere: tuple[type, ...] = ()) -> None:
        super().__init__(elsewhere)
        self.modules: set[str] = set()

    def _look(self, value: Any) -> str:
        kinds = (*type(value).__mro__, *(value.__mro__ if isinstance(value, type) else ()))
        self.modules.update(kind.__module__ for kind in kinds)
        if isinstance(value, FUNCTIONS) and isinstance(getattr(value, "__module__", None), str):
            self.modules.add(value.__module__)
        return super()._look(value)


def sources_of(modules: Iterable[str]) -> dict[str, str]:
    """Name of a module -> digest of its file, or version, of all that the code of some modules may run.

    Imports are followed as they are written, in functions too, to files that are not installed packages.  Nothing
    is imported for it.

    Raises:
        NoSource: such as of a class that was typed into a notebook.
    """
    found: dict[str, str] = {}
    versions: dict[str, str] = {}
    todo = []
    for name in sorted(modules):
        if not _is_standard(name):
            path = getattr(sys.modules.get(name), "__file__", None)
            if path is None or not Path(path).is_file():
                raise NoSource(f"the source of {name} is in no file")
            if not _is_ours(Path(path)):
                todo.append((name, Path(path), sys.modules[name].__package__ or ""))
    while todo:
        name, path, package = todo.pop()
        if name in found:
            continue
        found[name] = digest_of_file(path)
        for other in _imports(path, package):
            top = other.partition(".")[0]
            if other in found or top in versions or _is_standard(other):
                continue
            spec = _find(other)
            origin = Path(spec.origin) if spec is not None and spec.origin is not None else None
            if origin is None or not origin.is_file():
                continue  # a name within a module, or what is not installed
            if _is_installed(origin):
                versions[top] = _version(top)
            elif not _is_ours(origin):
                inner = other if spec is not None and spec.submodule_search_locations else other.rpartition(".")[0]
                todo.append((other, origin, inner))
    # A package that is known by its version may have been followed in part before that came up.
    return dict(sorted((found | {f"{top} (installed)": told for top, told in versions.items()}).items()))


def _is_ours(path: Path) -> bool:
    return not _OURS.isdisjoint(path.resolve().parents)


def _is_standard(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def _imports(path: Path, package: str) -> Iterator[str]:
    """Modules that a file names in imports, with the packages they are in; some may be names within a module."""
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            inner = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{inner}.{alias.name}" for alias in node.names if inner]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: end + 1]) for end in range(len(parts)))


def _find(name: str) -> ModuleSpec | None:
    """Where a module is, looked up as an import does but without one."""
    loaded: ModuleSpec | None = getattr(sys.modules.get(name), "__spec__", None)
    if loaded is not None:
        return loaded
    parts = name.split(".")
    try:
        # Of a name without dots this imports nothing.
        spec = find_spec(parts[0])
    except ValueError:
        return None
    for end in range(2, len(parts) + 1):
        where = None if spec is None else spec.submodule_search_locations
        if where is None:
            return None
        spec = PathFinder.find_spec(".".join(parts[:end]), list(where))
    return spec


def _is_installed(path: Path) -> bool:
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    paths |= {site.getusersitepackages()}
    return any(path.is_relative_to(each) for each in paths if each)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(package, [])
        return ", ".join(f"{name} {metadata.version(name)}" for name in sorted(set(names))) or "unknown"
