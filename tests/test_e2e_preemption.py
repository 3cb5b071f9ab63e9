"""SIGTERM and SIGUSR1 have a run stop with a checkpoint and a status of its own; `--resume auto` goes on from it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time

import psutil
import pytest
from deadly_task import ORDERS, order
from running import ROOT, TIMEOUT, assert_same_record, kill_all, read_until, run, start, tree
from tiny_task import make_data

DEADLY = ROOT / "tests" / "deadly_task.py"
COMMON = ["--rounds", 8, "--sample-num", 4, "--eval-every", 4, "--seed", 7, "--shuffle", "--private", "norm.*", "--lr",
          0.3, "--server-optimizer", "fedadam", "--train-last-day", "--shards", 1, "--progress", "none"]  # fmt: skip
DAY, NEXT = "20200101", "20200102"
EXCHANGE = ["--no-shared-memory", "--exchange", "always"]
STOPPED, INTERRUPTED = 75, 130
SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def orders(tmp_path, monkeypatch, scratch):
    """The folder of orders, in which a shard that was told to wait looks for leave to go on."""
    folder = tmp_path / "orders"
    folder.mkdir()
    os.mkfifo(folder / "go")
    monkeypatch.setenv(ORDERS, str(folder))
    both_ends = os.open(folder / "go", os.O_RDWR)
    yield folder
    os.close(both_ends)


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Mode -> (data, the record of a run that nobody stops)."""
    data = make_data(tmp_path_factory.mktemp("data"))
    made = {}

    def of(mode="federated"):
        if mode not in made:
            made[mode] = tmp_path_factory.mktemp(mode)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(ORDERS, str(tmp_path_factory.mktemp("no-orders")))
                run(DEADLY, data, *COMMON, *in_mode(mode), "--output", made[mode])
        return data, made[mode]

    return of


def in_mode(mode):
    return ["--mode", mode, "--server-optimizer", "fedavg"] if mode == "centralized" else []


def cohort(expected, number):
    return json.loads((expected / "cohorts.json").read_text())[number - 1]


def ranks_of(process):
    """Processes by rank: they write of themselves in what they were started with."""
    found = {}
    for each in tree(process):
        line = each.cmdline()
        if any("deadly_task" in word for word in line) and not line[0].endswith("mpirun"):
            found[int(each.environ().get("PMI_RANK", 0))] = each
    return found


def stop(process, whom, number):
    """Sends a signal to the launcher, to ranks, or to all processes of the run."""
    if whom == "mpirun":
        process.send_signal(number)
        return
    everybody = tree(process) if whom == "all" else [ranks_of(process)[rank] for rank in whom]
    for each in everybody:
        each.send_signal(number)


def ended(process, everything=()):
    """The exit status, and all that was said; no process is left."""
    everything = everything or tree(process)
    try:
        said = process.communicate(timeout=TIMEOUT)[0]
        _, alive = psutil.wait_procs(everything, timeout=10)
        assert alive == []
    finally:
        if process.poll() is None:
            kill_all(process)
    return process.returncode, said


def stopped(said, by=r"SIG\w+"):
    """The round after which the run has stopped, if it says so as it should."""
    assert "Traceback" not in said
    assert "BAD TERMINATION" not in said
    lines = said.splitlines()
    (at,) = [i for i, line in enumerate(lines) if " stopped by " in line]
    found = re.fullmatch(rf"rank 0: stopped by {by} at rank \d+ after round (\d+) of the run", lines[at])
    assert found, lines[at]
    assert re.fullmatch(rf"--resume \S+ goes on after round {found[1]} of the run", lines[at + 1])
    return int(found[1])


def go(orders):
    """Lets the shard that waits go on."""
    with (orders / "go").open("wb") as fifo:
        fifo.write(b"!")


# -- while a round is under way ------------------------------------------------------


@SLOW
@pytest.mark.parametrize(
    ("ranks", "whom", "number", "mode", "more"),
    [
        (3, "mpirun", signal.SIGTERM, "federated", []),
        (1, [0], signal.SIGTERM, "federated", []),
        (3, "all", signal.SIGTERM, "federated", []),
        (4, [1, 3], signal.SIGUSR1, "federated", EXCHANGE),
        (3, [1], signal.SIGTERM, "centralized", []),
    ],
)
def test_a_round_is_finished_and_the_same_command_goes_on(
    references, tmp_path, orders, ranks, whom, number, mode, more
):
    data, expected = references(mode)
    order(orders, f"train {DAY} 6 {cohort(expected, 6)[1]}", then=["wait"])
    arguments = [data, *COMMON, *in_mode(mode), *more, "--output", tmp_path / "run", "--resume", "auto"]
    process = start(DEADLY, *arguments, ranks=ranks)
    read_until(process, "waiting")
    stop(process, whom, number)
    go(orders)
    status, said = ended(process)
    assert status == STOPPED, said
    at = stopped(said, number.name)
    assert at >= 6  # a signal that is long on its way comes in a later round
    assert "died" not in said
    done = run(DEADLY, *arguments, ranks=ranks)
    assert f"resumed after round {at} of the run" in done.stdout + done.stderr
    assert_same_record(tmp_path / "run", expected)


# -- at other moments ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=SLOW)])
def test_a_test_is_given_up_and_done_again(references, tmp_path, orders, ranks):
    """After round 4; the rows of the test after it come once."""
    data, expected = references()
    order(orders, f"evaluate {NEXT} user003", then=["wait"])
    arguments = [data, *COMMON, "--output", tmp_path / "run", "--resume", "auto"]
    process = start(DEADLY, *arguments, ranks=ranks)
    read_until(process, "waiting")
    stop(process, [0], signal.SIGUSR1)
    status, said = ended(process)
    assert (status, stopped(said)) == (STOPPED, 4)
    run(DEADLY, *arguments, ranks=ranks)
    assert_same_record(tmp_path / "run", expected)


@SLOW
@pytest.mark.parametrize("ranks", [3])
def test_a_round_that_takes_half_of_the_grace_time_is_given_up(references, tmp_path, orders, ranks):
    """Round 6 never ends: the checkpoint is that of round 5, and the test after round 4 is not repeated in it.

    Private parameters that users have stored in round 6 already do not count.
    """
    data, expected = references()
    order(orders, f"train {DAY} 6 {cohort(expected, 6)[2]}", then=["wait"])
    arguments = [data, *COMMON, "--output", tmp_path / "run", "--resume", "auto"]
    process = start(DEADLY, *arguments, "--grace", 2, ranks=ranks)
    read_until(process, "waiting")
    stop(process, [0], signal.SIGTERM)
    status, said = ended(process)
    assert (status, stopped(said)) == (STOPPED, 5)
    run(DEADLY, *arguments, ranks=ranks)
    assert_same_record(tmp_path / "run", expected)


@SLOW
def test_a_round_that_is_given_up_after_a_test_has_that_test_once(references, tmp_path, orders):
    """Stopped in round 5, after the test after round 4: the checkpoint is of before that test."""
    data, expected = references()
    order(orders, f"train {DAY} 5 {cohort(expected, 5)[2]}", then=["wait"])
    arguments = [data, *COMMON, "--output", tmp_path / "run", "--resume", "auto"]
    process = start(DEADLY, *arguments, "--grace", 2)
    read_until(process, "waiting")
    stop(process, [0], signal.SIGTERM)
    status, said = ended(process)
    assert (status, stopped(said)) == (STOPPED, 4)
    run(DEADLY, *arguments)
    assert_same_record(tmp_path / "run", expected)


@SLOW
@pytest.mark.parametrize(
    ("ranks", "moment", "after"), [(1, f"read {DAY} train_0.json", 0), (3, f"read {NEXT} train_1.json", 8)]
)
def test_loading_is_given_up(references, tmp_path, orders, ranks, moment, after):
    """Before the first round nothing is to be saved; before the second day, the eight rounds of the first are."""
    data, expected = references()
    order(orders, moment, then=["wait"])
    arguments = [data, *COMMON, "--output", tmp_path / "run", "--resume", "auto"]
    process = start(DEADLY, *arguments, ranks=ranks)
    read_until(process, "waiting")
    stop(process, [ranks - 1], signal.SIGTERM)
    status, said = ended(process)
    assert status == STOPPED
    if after:
        assert stopped(said) == after
    else:
        assert f"rank 0: stopped by SIGTERM at rank {ranks - 1} before its first round was over\n" in said
        assert "goes on" not in said
    run(DEADLY, *arguments, ranks=ranks)
    assert_same_record(tmp_path / "run", expected)


# -- what ends it at once ----------------------------------------------------------------


def waiting_run(references, tmp_path, orders, *more, ranks=1):
    data, expected = references()
    order(orders, f"train {DAY} 3 {cohort(expected, 3)[1]}", then=["wait"])
    process = start(DEADLY, data, *COMMON, *more, "--output", tmp_path / "run", ranks=ranks)
    read_until(process, "waiting")
    return process


@SLOW
def test_a_second_sigterm_ends_it_at_once(references, tmp_path, orders):
    """One that comes within a second of the first is a launcher's copy of it."""
    process = waiting_run(references, tmp_path, orders, "--checkpoint-every", 1)
    everything = tree(process)
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < 20:
        stop(process, [0], signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.4)
    status, said = ended(process, everything)
    assert 1.0 < time.monotonic() - began < 5.0
    assert status == INTERRUPTED
    assert "rank 0: interrupted\n" in said
    assert "goes on after round 2 of the run" in said


@SLOW
@pytest.mark.parametrize("number", [signal.SIGUSR1])
def test_without_checkpoints_a_signal_ends_it_at_once(references, tmp_path, orders, number):
    process = waiting_run(references, tmp_path, orders, "--checkpoint-every", 0)
    stop(process, [0], number)
    status, said = ended(process)
    assert status == INTERRUPTED
    assert "rank 0: interrupted\n" in said
    assert "goes on" not in said


# -- --resume auto ------------------------------------------------------------------------


def test_auto_needs_a_folder(references):
    data, _ = references()
    done = run(DEADLY, data, "--resume", "auto", check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --resume auto needs --output FOLDER: the folder to go on in, or to start in\n",
    )


@SLOW
def test_auto_starts_where_no_checkpoint_is_whole_and_loses_nothing(references, tmp_path):
    data, expected = references()
    output = tmp_path / "run"
    arguments = [data, *COMMON, "--checkpoint-every", 6, "--output", output, "--resume", "auto"]
    run(DEADLY, *arguments)  # there is nothing yet
    assert_same_record(output, expected)
    for path in (output / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-1])
    done = run(DEADLY, *arguments)
    for step in (6, 12):
        assert f"step-{step:08d}.ckpt is damaged; it is left out" in done.stderr
    assert "holds no whole checkpoint; the run starts" in done.stdout
    assert_same_record(output, expected)
    assert_same_record(output / "previous-1", expected)
    done = run(DEADLY, *arguments, "--lr", 0.1, check=False)
    assert done.returncode == 2
    assert "--resume: the run cannot go on with other settings: --lr was 0.3, is 0.1" in done.stderr
