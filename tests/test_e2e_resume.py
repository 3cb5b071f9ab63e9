"""A run that was killed and resumed ends as if it had not been, to the bit, on other ranks and shards too."""

import os
import random
import re
import shutil
import signal
import subprocess

import psutil
import pytest
from running import TINY, assert_same_record, kill_all, read_until, run, start, tree, wait_until
from tiny_task import make_data

pytestmark = pytest.mark.usefixtures("forks")

ARGUMENTS = ["--rounds", 12, "--sample-num", 5, "--eval-every", 5, "--seed", 7, "--lr", 0.3, "--shuffle",
             "--private", "norm.*", "--train-last-day", "--server-optimizer", "fedadam",
             "--checkpoint-every", 5]  # fmt: skip
LAST = 20  # of the 24 rounds of two days, the last with a checkpoint


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    data = make_data(tmp_path_factory.mktemp("data"))
    output = tmp_path_factory.mktemp("run") / "reference"
    run(TINY, data, *ARGUMENTS, "--shards", 1, "--output", output, ranks=3)
    return data, output


@pytest.fixture
def crashed(reference, tmp_path):
    """The record of a run that was killed after its last checkpoint."""
    _, expected = reference
    shutil.copytree(expected, tmp_path / "run")
    (tmp_path / "run" / "params" / "final.npz").unlink()
    # The one that is left at the end.
    for path in checkpoints(tmp_path / "run").glob("step-00000024*"):
        path.unlink()
    return tmp_path / "run"


def flip(path, at=-100):
    """Damages one byte."""
    with path.open("rb+") as file:
        file.seek(at, os.SEEK_END)
        byte = file.read(1)
        file.seek(at, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


def checkpoints(output):
    return output / "checkpoints"


@pytest.mark.slow
def test_a_failed_run_says_how_it_goes_on(reference, tmp_path):
    data, _ = reference
    (tmp_path / "plan.json").write_text('[["user001"], ["user002"], ["user003"]]')
    plan = ["--sampler", "fixed", "--plan", tmp_path / "plan.json", "--rounds", 3, "--checkpoint-every", 1]
    trouble = ["--trouble", "raise", "--trouble-uid"]
    done = run(TINY, data, *plan, *trouble, "user003", "--output", tmp_path / "late", check=False)
    # The checkpoint of the second round may still have been on its way to the disk.
    assert re.search(rf"^--resume {tmp_path / 'late'} goes on after round [12] of the run\n\Z", done.stderr, re.M)
    done = run(TINY, data, *plan, *trouble, "user001", "--output", tmp_path / "early", check=False)
    assert "--resume" not in done.stderr


@pytest.mark.parametrize(
    "gone", ["", *(pytest.param(name, marks=pytest.mark.slow) for name in ("checkpoints", "config.yaml"))]
)
@pytest.mark.usefixtures("started")
def test_nothing_is_promised_of_a_record_that_is_gone(reference, tmp_path, gone):
    data, _ = reference
    (tmp_path / "plan.json").write_text('[["user001"], ["user002"], ["user003"]]')
    plan = ["--sampler", "fixed", "--plan", tmp_path / "plan.json", "--rounds", 3, "--checkpoint-every", 1]
    output = tmp_path / "run"
    process = start(TINY, data, *plan, "--trouble", "hang", "--trouble-uid", "user003", "--output", output)
    try:
        read_until(process, "hanging")
        wait_until(process, (checkpoints(output) / "step-00000002.ckpt").is_file)
        path = output / gone
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=20)[0]
    finally:
        if process.poll() is None:
            kill_all(process)
    assert "rank 0: interrupted" in said
    assert "--resume" not in said


# -- going on ----------------------------------------------------------------------


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("ranks", "more"),
    [
        (1, ["--shards", 2]),
        pytest.param(2, ["--shards", 3, "--no-shared-memory"], marks=SLOW),
        pytest.param(4, ["--shards", 1, "--no-shared-memory", "--exchange", "always"], marks=SLOW),
    ],
)
def test_a_resumed_run_ends_as_the_one_that_was_not_stopped(reference, crashed, ranks, more):
    data, expected = reference
    done = run(TINY, data, *ARGUMENTS, "--resume", crashed, *more, ranks=ranks)
    assert f"resumed after round {LAST} of the run" in done.stdout + done.stderr
    assert_same_record(crashed, expected)


def test_the_folder_alone_says_how_to_go_on(reference, crashed):
    """The settings are in the record; only what changes no bit may be given anew."""
    _, expected = reference
    run(TINY, "--resume", crashed, "--shards", 2)
    assert_same_record(crashed, expected)
    assert "resumed_after_rounds:\n- 20\n" in (crashed / "config.yaml").read_text()


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(["--mode", "federated"], marks=SLOW),
        pytest.param(["--mode", "centralized"], marks=SLOW),
        # Users train on the day's data before they are tested.
        pytest.param(["--algorithm", "finetune"], marks=SLOW),
    ],
    ids=["federated", "centralized", "personalised"],
)
def test_a_day_whose_last_round_is_the_checkpoint_is_still_tested(tmp_path, more):
    """Rounds 12 and 24 end a day: its test comes after the checkpoint."""
    data = make_data(tmp_path / "data")
    common = [*ARGUMENTS, *more, "--checkpoint-every", 12, "--server-optimizer", "fedavg"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    run(TINY, data, *common, "--shards", 1, "--output", whole, ranks=2)
    for step in (24, 12):
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree(whole, again)
        for path in checkpoints(again).glob("*.ckpt"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()
        done = run(TINY, "--resume", again, "--shards", 1, ranks=3)
        assert f"resumed after round {step} of the run" in done.stdout + done.stderr
        assert_same_record(again, whole)


@pytest.mark.parametrize(
    ("days", "fewer", "more", "back_to"),
    [pytest.param(1, 6, 9, 6, marks=SLOW), pytest.param(2, 4, 6, 4, marks=SLOW), pytest.param(2, 6, 5, 4, marks=SLOW)],
    ids=["after its end", "more in the first day", "fewer in the first day"],
)
def test_a_run_goes_on_with_other_rounds_as_one_that_had_them_from_the_start(tmp_path, days, fewer, more, back_to):
    """Its test after the last of the rounds it had is none of the longer run, and goes from the record."""
    data = make_data(tmp_path / "data", days=("20200101", "20200102")[:days])
    common = [*ARGUMENTS, "--eval-every", 2, "--checkpoint-every", 4, "--shards", 1]
    if days == 1:
        common += ["--no-train-last-day"]
    one, whole = tmp_path / "one", tmp_path / "whole"
    run(TINY, data, *common, "--rounds", fewer, "--output", one)
    for path in checkpoints(one).glob("*.ckpt"):
        if int(path.stem.removeprefix("step-")) > back_to:
            path.unlink()
    done = run(TINY, "--resume", one, "--rounds", more, ranks=days)
    assert f"resumed after round {back_to} of the run" in done.stdout + done.stderr
    assert f"round {more * days}/{more * days} " in done.stdout + done.stderr
    run(TINY, data, *common, "--rounds", more, "--output", whole)
    assert_same_record(one, whole)


@SLOW
def test_a_run_that_has_ended_goes_on_to_the_same_end(reference, tmp_path):
    _, expected = reference
    shutil.copytree(expected, tmp_path / "run")
    done = run(TINY, "--resume", tmp_path / "run", "--shards", 1)
    assert "resumed after round 24 of the run" in done.stdout + done.stderr
    assert_same_record(tmp_path / "run", expected)


def kill_everything(process):
    """SIGKILL to mpirun, its helpers, all ranks and shards at once."""
    try:
        victims = tree(process)
    except psutil.NoSuchProcess:
        return
    for each in victims:
        try:
            each.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(victims, timeout=20)


def survive(reference, output, kills, seed):
    """Kills the job at random moments, goes on with other ranks and shards, and compares the end."""
    data, expected = reference
    chance = random.Random(seed)
    ranks, shards = 2, 1
    common = [*ARGUMENTS, "--checkpoint-every", 1]
    done = 0
    while done < kills:
        whole = any(checkpoints(output).glob("*.ckpt"))
        where = ["--resume", output] if whole else [data, "--output", output]
        process = start(TINY, *where, *common, "--shards", shards, ranks=ranks)
        try:
            read_until(process, "shared parameters")
            process.communicate(timeout=chance.uniform(0.0, 0.6))
            assert process.returncode == 0  # it was faster than the moment of its death
            shutil.rmtree(output)
        except subprocess.TimeoutExpired:
            kill_everything(process)
            done += 1
        finally:
            if process.poll() is None:
                kill_all(process)
            process.stdout.close()
        ranks, shards = chance.choice([(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)])
    if any(checkpoints(output).glob("*.ckpt")):
        run(TINY, "--resume", output, "--shards", shards, ranks=ranks)
    else:
        run(TINY, data, *common, "--output", output, "--shards", shards, ranks=ranks)
    assert_same_record(output, expected)


def test_a_kill_costs_no_bit(reference, tmp_path):
    survive(reference, tmp_path / "run", kills=1, seed=1)


@SLOW
def test_eight_kills_cost_no_bit(reference, tmp_path):
    survive(reference, tmp_path / "run", kills=8, seed=2)


# -- what is damaged ---------------------------------------------------------------


def newest(output, pattern):
    return max(checkpoints(output).glob(pattern))


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        pytest.param("*.ckpt", flip, marks=SLOW),
        pytest.param("*.ckpt", lambda path: os.truncate(path, path.stat().st_size // 2), marks=SLOW),
        pytest.param("*.ckpt", lambda path: os.truncate(path, 0), marks=SLOW),
        ("*rank1.private", flip),
        pytest.param("*rank2.private", lambda path: path.unlink(), marks=SLOW),
    ],
    ids=["a byte", "half of it", "nothing left", "a private byte", "a private file gone"],
)
def test_the_checkpoint_before_a_damaged_one_is_used(reference, crashed, pattern, damage):
    _, expected = reference
    path = newest(crashed, pattern)
    damage(path)
    done = run(TINY, "--resume", crashed, "--shards", 1, ranks=2)
    said = done.stdout + done.stderr
    assert path.name in said
    assert "left out" in said
    assert "resumed after round 15 of the run" in said
    assert_same_record(crashed, expected)


def refused(*arguments, ranks=1):
    done = run(TINY, *arguments, ranks=ranks, check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_without_a_whole_checkpoint_nothing_is_resumed(crashed):
    for path in checkpoints(crashed).glob("*.ckpt"):
        flip(path)
    assert "there is no whole checkpoint in" in refused("--resume", crashed)
    shutil.rmtree(checkpoints(crashed))
    assert "there is no whole checkpoint in" in refused("--resume", crashed)
    assert (crashed / "metrics.csv").is_file()  # and nothing is lost


def test_a_folder_that_is_not_there(reference, tmp_path):
    data, _ = reference
    assert "there is no such folder" in refused(data, "--resume", tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", 8], "--seed was 7, is 8"),
        (["--lr", 0.2, "--epochs", 2], "--epochs was 1, is 2; --lr was 0.3, is 0.2"),
        (["--no-shuffle"], "--shuffle was True, is False"),
        (["--rounds", 20], "--rounds was 12, is 20: 20 rounds are done, so the first day is over"),
        (["--server-lr", 2], "--server-lr was not given, is 2.0; server optimizer FedAdam: learning_rate was 0.01"),
    ],
)
def test_other_settings_are_refused_by_name(crashed, change, message):
    before = (crashed / "metrics.csv").read_bytes()
    assert message in refused("--resume", crashed, *change)
    assert (crashed / "metrics.csv").read_bytes() == before


def test_another_output_is_refused(crashed, tmp_path):
    assert "a resumed run goes on in" in refused("--resume", crashed, "--output", tmp_path / "other")


def test_other_data_is_refused(crashed, tmp_path):
    data = make_data(tmp_path / "later", days=("20200105", "20200106"))
    done = run(TINY, data, "--resume", crashed, ranks=2, check=False)
    assert done.returncode != 0
    assert "the checkpoint is of date 20200102, day 2 of the run" in done.stderr
