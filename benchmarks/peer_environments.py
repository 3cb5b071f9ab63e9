"""The virtual environments of the systems we are compared with, made on first use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import ONE_THREAD, PEERS, run

PACKAGES = {
    "pfl": ["torch==2.13.0", "numpy", "pfl==0.6.0"],
    "flwr": ["torch==2.13.0", "numpy", "flwr[simulation]"],
    "pfllib": ["torch==2.13.0", "numpy", "h5py", "scikit-learn", "matplotlib"],
    "fedjax": ["jax", "numpy<3", "fedjax==0.0.17"],
}
_READY = "ok"


def add_option(parser: ArgumentParser) -> None:
    """Adds --venvs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument(
        "--venvs",
        type=Path,
        default=cache / "fl-mobile-simulator" / "venvs",
        help="folder of the peers' virtual environments, made on first use (default: in the user's cache)",
    )


def peer_programs(name: str, venvs: Path) -> Path:
    """The folder of a peer's programs (python, torchrun); installs the peer if it is not there."""
    home = venvs / name
    if not (home / _READY).exists():
        sys.stderr.write(f"installing {' '.join(PACKAGES[name])} in {home}\n")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(home / "bin" / "pip"), "install", "-q", *PACKAGES[name]], check=True, env=_without_ours())
        (home / _READY).touch()
    return home / "bin"


def peer_environment() -> dict[str, str]:
    """Variables for a peer: one thread a worker, the peers' own modules, nothing of this project."""
    return {**_without_ours(), **ONE_THREAD, "PYTHONPATH": str(PEERS)}


def run_peer(command: Sequence[object], seconds: Path, environment: Mapping[str, str]) -> list[float]:
    """Runs a peer's script, which leaves the seconds of its rounds after the first in a file; returns them."""
    seconds.unlink(missing_ok=True)
    run(command, environment)
    return [float(each) for each in json.loads(seconds.read_text())]


def peer_versions(name: str, venvs: Path) -> str:
    """Versions of a peer's packages."""
    ask = "import sys, importlib.metadata as m; print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
    command = [str(peer_programs(name, venvs) / "python"), "-c", ask, name, PACKAGES[name][0].partition("=")[0]]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=_without_ours()).stdout.strip()


def _without_ours() -> dict[str, str]:
    # Packages of this project (model, trainer, ...) must not hide a peer's.
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
