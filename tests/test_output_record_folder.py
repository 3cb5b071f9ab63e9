"""Two runs never write one record: the folder is made for one, and held by it as long as it lives."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from running import (
    ROOT,
    TIMEOUT,
    TINY,
    assert_same_record,
    command,
    environment,
    kill_all,
    read_until,
    run,
    start,
    tree,
)
from tiny_task import make_data

from protos.errors import BadInput
from simulator.output.record_folder import LOCK, RecordFolder

SHORT = ["--rounds", 3, "--sample-num", 4, "--shards", 1, "--private", "norm.*", "--checkpoint-every", 1]
REFUSED = re.compile(
    r"error: --(output|resume) (?P<folder>\S+): another run has this folder "
    r"\(host (?P<host>\S+), process (?P<pid>\d+), started \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\); "
    r"wait for its end, or give another folder with --output\n"
)
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "reference"
    run(TINY, data, *SHORT, "--output", output)
    return data, output


def together(cwd, count, *arguments, ranks=1):
    """Starts so many runs at once; their exit statuses and what they wrote to stderr."""
    runs = [
        subprocess.Popen(
            command(TINY, *arguments, ranks=ranks), env=environment(), cwd=cwd, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for _ in range(count)
    ]  # fmt: skip
    try:
        said = [each.communicate(timeout=TIMEOUT)[1] for each in runs]
    finally:
        for each in runs:
            if each.poll() is None:
                kill_all(each)
    return [(each.returncode, text) for each, text in zip(runs, said, strict=True)]


def records(folder):
    """The records in a folder: its own and those that were set aside."""
    return [folder, *folder.glob("previous-*")]


# -- folders ---------------------------------------------------------------------


def test_a_folder_is_taken_once(tmp_path):
    held = RecordFolder.make(tmp_path / "new" / "run")
    with pytest.raises(BadInput) as caught:
        RecordFolder.make(tmp_path / "new" / "run")
    found = REFUSED.fullmatch(f"error: {caught.value}\n")
    assert (found["folder"], found["host"], int(found["pid"])) == (str(held.path), socket.gethostname(), os.getpid())
    held.release()
    RecordFolder(held.path, "--resume").release()


def test_folders_of_one_second_have_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "20200101-120000")
    made = [RecordFolder.make_new(tmp_path / "runs") for _ in range(3)]
    assert [folder.path.name for folder in made] == ["20200101-120000", "20200101-120000-2", "20200101-120000-3"]
    for folder in made:
        folder.release()


HOLD = """
import subprocess, sys
from pathlib import Path
from simulator.output.record_folder import RecordFolder
held = RecordFolder.make(Path(sys.argv[1]))
child = subprocess.Popen(["sleep", "60"], close_fds=False)
print(child.pid, flush=True)
child.wait()
"""


def test_a_child_that_lives_on_does_not_hold_the_folder_of_a_dead_run(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with holder:
        orphan = int(holder.stdout.readline())
        try:
            with pytest.raises(BadInput, match=f"process {holder.pid}, "):
                RecordFolder.make(tmp_path)
            holder.kill()
            holder.wait()
            RecordFolder.make(tmp_path).release()
            os.kill(orphan, 0)  # it is still there
        finally:
            holder.kill()
            os.kill(orphan, signal.SIGKILL)


def test_the_owner_that_is_named_is_the_one_of_now(tmp_path):
    """What a run that died has left in the lock file is never shown."""
    (tmp_path / LOCK).write_text('{"host": "old", "process": 1, "started": "2001"}\n' * 9)
    held = RecordFolder.make(tmp_path)
    with pytest.raises(BadInput, match=f"process {os.getpid()}, "):
        RecordFolder.make(tmp_path)
    held.release()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr("fcntl.fcntl", refuse)
    RecordFolder.make(tmp_path).release()
    assert f"{tmp_path}: its file system has no locks (Operation not supported)" in caplog.text


# -- the real program --------------------------------------------------------------


@pytest.mark.parametrize("pairs", [1, pytest.param(8, marks=SLOW)])
def test_runs_of_the_same_second_have_a_record_each(data, tmp_path, pairs):
    for _ in range(pairs):
        assert [status for status, _ in together(tmp_path, 2, data, *SHORT)] == [0, 0]
    made = list((tmp_path / "runs").iterdir())
    assert len(made) == 2 * pairs
    for output in made:
        assert_same_record(output, made[0])


@SLOW
@pytest.mark.parametrize(("pairs", "ranks"), [(8, 1), (3, 2)])
def test_runs_into_one_folder_never_share_a_record(reference, tmp_path, pairs, ranks):
    """The second is refused; or it came when the first was over, and has set its record aside."""
    data, expected = reference
    for number in range(pairs):
        output = tmp_path / f"run{number}"
        ended = together(tmp_path, 2, data, *SHORT, "--output", output, ranks=ranks)
        assert {status for status, _ in ended} <= {0, 2}
        whole = records(output)
        assert len(whole) == sum(status == 0 for status, _ in ended)
        for each in whole:
            assert_same_record(each, expected)
        for status, said in ended:
            assert status == 0 or REFUSED.search(said), said


@SLOW
@pytest.mark.parametrize("pairs", [5])
def test_of_two_that_go_on_with_a_dead_run_one_is_refused(reference, tmp_path, pairs):
    _, expected = reference
    for number in range(pairs):
        output = tmp_path / f"run{number}"
        shutil.copytree(expected, output)
        (output / "params" / "final.npz").unlink()
        ended = together(tmp_path, 2, "--resume", output)
        assert 0 in {status for status, _ in ended} <= {0, 2}
        for status, said in ended:
            assert status == 0 or REFUSED.search(said), said
        assert_same_record(output, expected)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=SLOW)])
def test_a_run_that_lives_keeps_its_folder(data, tmp_path, ranks):
    output = tmp_path / "run"
    first = start(
        TINY, data, *SHORT, "--sample-num", 12, "--trouble", "hang", "--trouble-uid", "user005", "--output", output,
        ranks=ranks,
    )  # fmt: skip
    try:
        read_until(first, "hanging")
        (output / "checkpoints").mkdir(exist_ok=True)
        before = sorted(path for path in output.rglob("*") if path.is_file())
        for again in ([data, *SHORT, "--output", output], [data, "--resume", output], [
            data, *SHORT, "--output", output, "--resume", "auto"
        ]):  # fmt: skip
            done = run(TINY, *again, ranks=ranks, check=False)
            assert done.returncode == 2
            (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
            assert Path(REFUSED.fullmatch(line + "\n")["folder"]) == output
        assert sorted(path for path in output.rglob("*") if path.is_file()) == before
    finally:
        everything = tree(first)
        kill_all(first)
        psutil.wait_procs(everything, timeout=TIMEOUT)
        first.stdout.close()
    RecordFolder(output, "--resume").release()
