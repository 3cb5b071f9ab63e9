"""Makes a small data folder for a page of examples/, so that it runs at once.

python examples/make_data.py synthetic /tmp/synthetic            a set and the folder to make
python examples/make_data.py synthetic /tmp/synthetic --seed 1   another one of the same kind
python examples/make_data.py recommender /tmp/ratings --users 2000   more users, where a set allows it
python examples/make_data.py                                     which sets there are

A set is a file of small_data/ with a function `write(out, seed)`, which fills an empty folder, and may take `users`;
its first line says what it is.  The same seed gives the same bytes.  A folder appears under its name when all of it
is there.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:  # where it is imported, and not run
    sys.path.insert(0, str(HERE))


class SmallSet(Protocol):
    """A module of small_data/."""

    def write(self, out: Path, seed: int, **more: int) -> None:
        """Fills an empty folder, with the same bytes for the same seed."""


def names() -> list[str]:
    """The sets there are: the files of small_data/ whose names begin with a letter."""
    return sorted(path.stem for path in (HERE / "small_data").glob("[a-z]*.py"))


def make(name: str, out: Path, seed: int = 0, users: int | None = None) -> None:
    """Makes a set.

    Args:
        name: of the set.
        out: the folder to make.
        seed: of everything.
        users: how many; None for as many as the set has.

    Raises:
        ValueError: no such set, one whose users are not to be chosen, or the folder holds something.
    """
    if name not in names():
        raise ValueError(f"there is no set {name!r}; there are {', '.join(names())}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; name a folder that is new or empty")
    small_set = cast(SmallSet, importlib.import_module(f"small_data.{name}"))
    more = {} if users is None else {"users": users}
    if more and "users" not in inspect.signature(small_set.write).parameters:
        raise ValueError(f"the set {name!r} has its own number of users; leave --users out")
    if users is not None and users < 1:
        raise ValueError(f"--users is {users}; it must be 1 or more")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as stage:
        made = Path(stage) / "data"
        made.mkdir()
        small_set.write(made, seed, **more)
        made.replace(out)


def what_is(name: str) -> str:
    """The first line of a set."""
    tree = ast.parse((HERE / "small_data" / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        print("\n".join(f"{name:12} {what_is(name)}" for name in names()))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the set")
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--seed", type=int, default=0, help="another one of the same kind (%(default)s)")
    parser.add_argument("--users", type=int, help="how many users, of a set that can be larger")
    arguments = parser.parse_args(argv)
    try:
        make(arguments.name, arguments.out, arguments.seed, arguments.users)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
