"""Runs all benchmarks, one after another, and writes their tables to one page.

    python benchmarks/everything.py --page docs/benchmarks.md

The page begins with each command, so that a part of it can be measured again by hand.  Takes about an hour; wants a
machine at rest.  Peers that are not there are installed (`--venvs`).  What fails is said on the page and at the end.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from common import HERE, PAGE_VARIABLE, ROOT
from peer_environments import add_option

# What each shows, and how it is run; `{venvs}` where it has peers.
SECTIONS = {
    "The language model": "language_model.py {data} --flower --venvs {venvs}",
    "A tiny model": "tiny.py --venvs {venvs}",
    "A convolutional net, one step": "cnn.py --venvs {venvs}",
    "A convolutional net, whole rounds": "image_rounds.py --venvs {venvs}",
    "Balance": "balance.py",
    "Loading": "loading.py {data}",
    "Start and idle ranks": "start.py {data}",
    "Memory": "memory.py {data} --pfl --venvs {venvs}",
    "Many users": "many_users.py",
    "Many simulators": "scale.py",
}


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("data", nargs="?", type=Path, default=ROOT / "lm_data", help="data folder (default: lm_data)")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", help="what is written")
    parser.add_argument("--pfllib", type=Path, help="folder with PFLlib's sources, to measure it too")
    parser.add_argument("--only", nargs="+", metavar="SCRIPT", help="some scripts, such as tiny.py")
    add_option(parser)
    return parser.parse_args()


def main() -> None:
    """Runs them; the page is replaced when all have ended."""
    asked = read_arguments()
    page, failed = asked.page.absolute(), []
    draft = page.with_suffix(".draft")
    draft.write_text("# Benchmarks\n\nWritten by `python benchmarks/everything.py`; benchmarks/README.md says how.\n\n")
    for title, line in SECTIONS.items():
        words = shlex.split(line.format(data=asked.data, venvs=asked.venvs))
        if asked.only and words[0] not in asked.only:
            continue
        if words[0] == "image_rounds.py" and asked.pfllib is not None:
            words += ["--pfllib", str(asked.pfllib.absolute())]
        shown = " ".join(words).replace(f" --venvs {asked.venvs}", "").replace(f"{ROOT}{os.sep}", "")
        with draft.open("a", encoding="utf-8") as file:
            file.write(f"## {title}\n\n`python benchmarks/{shown}`\n\n")
        environment = {**os.environ, PAGE_VARIABLE: str(draft)}
        done = subprocess.run([sys.executable, str(HERE / words[0]), *words[1:]], env=environment, cwd=ROOT)
        if done.returncode:
            failed.append(words[0])
            with draft.open("a", encoding="utf-8") as file:
                file.write(f"It failed (status {done.returncode}).\n\n")
    draft.replace(page)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; {page} has the others")


if __name__ == "__main__":
    main()
