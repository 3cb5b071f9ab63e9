"""The script that a run was started with, as its other processes import it: classes of the reader's kind are there."""

from __future__ import annotations

import multiprocessing.spawn
import sys
from pathlib import Path
from typing import Any

from protos.errors import BadInput

SHARD_MODULE = "simulator.worker.main"
# Of a rank that `run()` has started.
RANK_MODULE = "simulator.running.rank_main"
_OWN = (SHARD_MODULE, RANK_MODULE)
# Of multiprocessing's own recipe, what is needed: where the script is, and what it sees.
_NEEDED = ("init_main_from_name", "init_main_from_path", "sys_argv", "dir")


def main_module() -> dict[str, Any]:
    """How a shard finds the classes of the main script."""
    told = multiprocessing.spawn.get_preparation_data("shard")
    if told.get("init_main_from_name") in _OWN:
        # Started by a program that was typed in.
        del told["init_main_from_name"]
    if not Path(told.get("init_main_from_path", "/")).is_file():
        told.pop("init_main_from_path", None)  # <stdin>
    return {key: told[key] for key in _NEEDED if key in told}


def has_file() -> bool:
    """Whether another process can import the main script at all: not if it was typed in, as in a notebook."""
    return bool({"init_main_from_name", "init_main_from_path"} & set(main_module()))


def module_command(module: str) -> list[str]:
    """The start of a command line that runs a module of this project.

    As `python -m`, but without the working folder on the path: if that is a checkout, it may be another than the run's.
    """
    begin = f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", f"import runpy, sys; sys.path[:] = filter(None, sys.path); {begin}"]


def import_main(told: dict[str, Any]) -> None:
    """Imports the main script in another process, under another name than `__main__`."""
    multiprocessing.spawn.prepare(told)


def refuse_in_shard() -> None:
    """Refuses to start a run in a shard, or a rank, that imports the main script.

    Raises:
        BadInput: names the script and shows what to write.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    # Once the script is imported, it stands there instead.
    if spec is None or spec.name not in _OWN:
        return
    script = Path(sys.argv[0]).name
    raise BadInput(
        f"{script} starts a run when it is imported, and each worker process imports it: put what starts the run into "
        f'a function, such as main(), and end {script} with the two lines  if __name__ == "__main__":  and  main()'
    )
