"""Helpers that run the real program: as one process or under mpirun."""

import csv
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from forks import forked, python

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "tiny_task.py"
TIMEOUT = 120


def command(script, *arguments, ranks=1, launcher=True, mpirun=None):
    """The command line; with `launcher`, several ranks go through mpirun, or what stands in `mpirun`."""
    start = mpirun or (["mpirun", "-np", str(ranks)] if launcher and ranks > 1 else [])
    return [*start, *python(), str(script), *map(str, arguments)]


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def run(script, *arguments, ranks=1, check=True, mpirun=None, timeout=TIMEOUT):
    """Runs to the end; returns the completed process."""
    done = subprocess.run(
        command(script, *arguments, ranks=ranks, mpirun=mpirun),
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def start(script, *arguments, ranks=1, mpirun=None):
    """Starts in a process group of its own; the caller ends it."""
    return subprocess.Popen(
        command(script, *arguments, ranks=ranks, mpirun=mpirun),
        env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def read_until(process, text):
    """Reads the output up to a line that holds `text`; returns what was read."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return "".join(seen)
    raise AssertionError(f"{text!r} never came:\n{''.join(seen)}")


def wait_until(process, reached):
    """Returns when something has come true that a running process brings about."""
    end = time.monotonic() + TIMEOUT
    while not reached():
        assert time.monotonic() < end
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        assert reached(), process.stdout.read()


def tree(process):
    """The process and all below it, and what was forked for it."""
    try:
        top = psutil.Process(process.pid)
        own = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        own = []
    return [*own, *forked()]


def kill_all(process):
    """SIGKILL, also as the last resort of a test that failed half-way."""
    for each in reversed(tree(process)):
        # A launcher that sees one rank end kills the others.
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGKILL)
    process.wait()


def metrics(output):
    """Rows of metrics.csv without the times."""
    with (Path(output) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "train", "pull", "push", "wait")} for row in rows]


def params(output, name="final"):
    """The arrays of params/NAME.npz."""
    with np.load(Path(output) / "params" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def private(output):
    """uid -> arrays of params/private."""
    found = {}
    for path in sorted((Path(output) / "params" / "private").glob("*.npz")):
        with np.load(path) as file:
            found[path.stem] = {key: file[key] for key in file.files}
    return found


def same(one, other):
    """Whether two sets of arrays are equal to the bit."""
    return set(one) == set(other) and all(one[k].tobytes() == other[k].tobytes() for k in one)


def assert_same_record(output, expected):
    """The record of a run is that of another, but for times."""
    for name in ("initial", "final"):
        assert same(params(output, name), params(expected, name))
    mine, theirs = private(output), private(expected)
    assert set(mine) == set(theirs)
    assert all(same(mine[uid], theirs[uid]) for uid in theirs)
    assert metrics(output) == metrics(expected)
    for name in ("cohorts.json", "per_user.csv"):
        assert (output / name).read_bytes() == (expected / name).read_bytes()


@contextmanager
def process_with(fd, code, *arguments):
    """Runs Python code that gets a file descriptor; it says it is ready by a line, and goes on after one."""
    command = [sys.executable, "-c", code, str(fd), *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, pass_fds=[fd], **pipes) as child:
        try:
            yield child
        finally:
            child.kill()
