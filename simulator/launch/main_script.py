"""The script that a run was started with, as its shards import it: the reader's and the trainer's classes are there."""

from __future__ import annotations

import multiprocessing.spawn
import sys
from pathlib import Path
from typing import Any

from protos.errors import BadInput

SHARD_MODULE = "simulator.worker.main"
# Of multiprocessing's own recipe, what is needed: where the script is, and what it sees.
_NEEDED = ("init_main_from_name", "init_main_from_path", "sys_argv", "dir")


def main_module() -> dict[str, Any]:
    """How a shard finds the classes of the main script."""
    told = multiprocessing.spawn.get_preparation_data("shard")
    return {key: told[key] for key in _NEEDED if key in told}


def has_file() -> bool:
    """Whether a shard can import the main script at all: not if it was typed in."""
    told = main_module()
    return "init_main_from_name" in told or Path(told.get("init_main_from_path", "/")).is_file()


def import_main(told: dict[str, Any]) -> None:
    """Imports the main script in a shard, under another name than `__main__`."""
    multiprocessing.spawn.prepare(told)


def refuse_in_shard() -> None:
    """Refuses to start a run in a shard that imports the main script.

    Raises:
        BadInput: names the script and shows what to write.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    # Once the script is imported, it stands there instead.
    if spec is None or spec.name != SHARD_MODULE:
        return
    script = Path(sys.argv[0]).name
    raise BadInput(
        f"{script} starts a run when it is imported, and each worker process imports it: put what starts the run into "
        f'a function, such as main(), and end {script} with the two lines  if __name__ == "__main__":  and  main()'
    )
