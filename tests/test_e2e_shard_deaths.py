"""A shard that dies is replaced, whatever it was at, and no bit of the result tells of it."""

import json
import os
import signal

import psutil
import pytest
from deadly_task import ORDERS, order
from running import ROOT, assert_same_record, kill_all, read_until, run, start, tree
from tiny_task import make_data

DEADLY = ROOT / "tests" / "deadly_task.py"
BASE = ["--rounds", 3, "--sample-num", 8, "--seed", 7, "--shuffle", "--private", "norm.*", "--lr", 0.3]
DAY, NEXT = "20200101", "20200102"
SLOW = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("forks")


@pytest.fixture(autouse=True)
def orders(tmp_path, monkeypatch):
    """The folder of orders, and a TMPDIR in which nothing may be left."""
    folder, scratch = tmp_path / "orders", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    monkeypatch.setenv(ORDERS, str(folder))
    monkeypatch.setenv("TMPDIR", str(scratch))
    yield folder
    assert list(scratch.iterdir()) == []


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Mode -> (data, the record of a run in which nothing dies)."""
    data = make_data(tmp_path_factory.mktemp("data"))
    made = {}

    def of(mode):
        if mode not in made:
            made[mode] = tmp_path_factory.mktemp(mode)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(ORDERS, str(tmp_path_factory.mktemp("no-orders")))
                run(DEADLY, data, *BASE, "--mode", mode, "--shards", 1, "--output", made[mode])
        return data, made[mode]

    return of


def cohort(expected, number):
    """The users of a round."""
    return json.loads((expected / "cohorts.json").read_text())[number - 1]


def survives(references, tmp_path, orders, moments, *flags, mode="federated", ranks=1, deaths=1):
    """Runs with deaths at moments; checks that all came and that the record is the same."""
    data, expected = references(mode)
    for moment in moments:
        order(orders, moment, deaths)
    output = tmp_path / "out"
    done = run(DEADLY, data, *BASE, "--mode", mode, "--shards", 2, *flags, "--output", output, ranks=ranks)
    assert [path for path in orders.rglob("*") if path.is_file()] == []
    assert_same_record(output, expected)
    lines = [line for line in done.stderr.splitlines() if "another takes its place" in line]
    assert len(lines) == len(moments) * deaths
    assert all("signal 9" in line for line in lines)
    return lines


# -- the same bits -----------------------------------------------------------------

MOMENTS = {
    "after local training": "train 20200101 1 {uid}",
    "after private parameters are stored": "stored 0 {uid}",
    "between two parameters of a sum": "added hidden.bias {uid}",
    "when a user is taken": "took 5",
    "when it is told of the next round": "took word of 1",
    "while it waits for the next round": "took users of 2",
    "in a test": "evaluate 20200102 {uid}",
    "in a file": "read 20200101 train_0.json",
    "in a file of the test": "read 20200102 test_1.json",
    "when all files are taken": "took nothing",
}


FEW = ("after private parameters are stored",)


@pytest.mark.parametrize(
    "moment",
    [pytest.param(MOMENTS[k], id=k, marks=[] if k in FEW else [SLOW]) for k in MOMENTS],
)
def test_one_death_changes_no_bit(references, tmp_path, orders, moment):
    uid = cohort(references("federated")[1], 1)[3]
    (line,) = survives(references, tmp_path, orders, [moment.format(uid=uid)])
    names_uid = not moment.startswith(("read", "took"))
    assert (f"uid '{uid}'" in line) == names_uid
    assert (" at file " in line) == moment.startswith("read")


def everything(expected):
    """Deaths of all kinds, two at users of one round, which may fall together."""
    first, second, third = (cohort(expected, number) for number in (1, 2, 3))
    return [
        f"read {DAY} train_0.json", f"read {DAY} train_1.json", f"read {NEXT} test_0.json",
        f"train {DAY} 1 {first[0]}", f"train {DAY} 1 {first[5]}", f"stored 1 {second[2]}",
        f"train {DAY} 3 {third[7]}", f"evaluate {NEXT} {first[1]}",
    ]  # fmt: skip


@SLOW
@pytest.mark.parametrize(("ranks", "flags"), [(2, []), (3, ["--no-shared-memory"])])
def test_many_deaths_change_no_bit(references, tmp_path, orders, ranks, flags):
    moments = everything(references("federated")[1])
    lines = survives(references, tmp_path, orders, moments, *flags, ranks=ranks)
    assert sum("read again" in line for line in lines) == 3
    assert sum("tested again" in line for line in lines) == 1


@SLOW
def test_two_deaths_at_one_user_change_no_bit(references, tmp_path, orders):
    uid = cohort(references("federated")[1], 2)[0]
    lines = survives(references, tmp_path, orders, [f"train {DAY} 2 {uid}"], deaths=2)
    assert all(f"at date {DAY}, round 2, uid '{uid}' (signal 9)" in line for line in lines)


@pytest.mark.parametrize(
    ("ranks", "flags"),
    [
        pytest.param(1, ["--no-shared-memory"], marks=SLOW),
        pytest.param(3, [], marks=SLOW),
    ],
)  # fmt: skip
def test_deaths_change_no_bit_without_federation(references, tmp_path, orders, ranks, flags):
    """One of them while the parameters are half written back."""
    users = cohort(references("centralized")[1], 2)
    moments = [f"train {DAY} 2 {users[3]}", f"stored 1 {users[6]}", "result"]
    survives(references, tmp_path, orders, moments, *flags, mode="centralized", ranks=ranks)


@SLOW
def test_a_death_after_the_last_user_names_none(references, tmp_path, orders):
    """The order for it is given by a death before, so that it falls into a round and not into the reading."""
    uid = cohort(references("federated")[1], 1)[0]
    data, expected = references("federated")
    order(orders, f"train {DAY} 1 {uid}", then=["took nothing"])
    done = run(DEADLY, data, *BASE, "--shards", 1, "--output", tmp_path / "out")
    assert_same_record(tmp_path / "out", expected)
    first, second = (line for line in done.stderr.splitlines() if "another takes its place" in line)
    assert f"uid '{uid}'" in first
    assert "uid" not in second
    assert "8 users are trained again" in second


@SLOW
def test_a_death_while_another_takes_the_place_changes_no_bit(references, tmp_path, orders):
    uid = cohort(references("federated")[1], 1)[0]
    data, expected = references("federated")
    order(orders, f"train {DAY} 1 {uid}", then=["build"])
    done = run(DEADLY, data, *BASE, "--shards", 2, "--output", tmp_path / "out")
    assert_same_record(tmp_path / "out", expected)
    assert done.stderr.count("another takes its place") == 2


# -- enough is enough --------------------------------------------------------------


def fails(references, tmp_path, *flags, ranks=1, mode="federated"):
    data, _ = references(mode)
    flags = ["--mode", mode, "--shards", 2, *flags]
    done = run(DEADLY, data, *BASE, *flags, "--output", tmp_path / "out", ranks=ranks, check=False)
    assert done.returncode != 0
    warnings = [line for line in done.stderr.splitlines() if "another takes its place" in line]
    return warnings, [line for line in done.stderr.splitlines() if line.startswith("rank ")]


@pytest.mark.parametrize(
    ("mode", "ranks"),
    [
        pytest.param("federated", 1, marks=SLOW),
        pytest.param("federated", 3, marks=SLOW),
        pytest.param("centralized", 1, marks=SLOW),
    ],
)
def test_the_third_death_at_a_user_ends_the_run(references, tmp_path, orders, mode, ranks):
    uid = cohort(references(mode)[1], 2)[1]
    order(orders, f"train {DAY} 2 {uid}", deaths=9)
    warnings, (line,) = fails(references, tmp_path, ranks=ranks, mode=mode)
    assert len(warnings) == 2
    assert f"died at date {DAY}, round 2, uid '{uid}' (signal 9), as did 2 before it" in line
    assert "memory" in line


@SLOW
def test_the_third_death_at_a_user_in_a_test_ends_the_run(references, tmp_path, orders):
    order(orders, f"evaluate {NEXT} user004", deaths=9)
    warnings, (line,) = fails(references, tmp_path)
    assert len(warnings) == 2
    assert f"died at date {NEXT}, round 3, uid 'user004' (signal 9), as did 2 before it" in line


@SLOW
def test_the_third_death_at_a_file_ends_the_run(references, tmp_path, orders):
    order(orders, f"read {DAY} train_1.json", deaths=9)
    warnings, (line,) = fails(references, tmp_path, ranks=2)
    assert len(warnings) == 2
    assert f"died at file {references('federated')[0] / DAY / 'train_1.json'} (signal 9), as did 2 before it" in line


def test_a_death_in_the_set_up_ends_the_run(references, tmp_path, orders):
    order(orders, "build")
    warnings, (line,) = fails(references, tmp_path)
    assert warnings == []
    assert "died while it was set up (signal 9)" in line


@SLOW
def test_a_shard_that_cannot_be_replaced_ends_the_run(references, tmp_path, orders):
    uid = cohort(references("federated")[1], 1)[0]
    order(orders, f"train {DAY} 1 {uid}", then=["build"] * 9)
    _, (line,) = fails(references, tmp_path)
    assert "died (signal 9), as did 2 before it" in line


# -- killed from outside -----------------------------------------------------------


def shards_of(process):
    """The shards by their number over all ranks, as they were started."""
    return [each for each in tree(process) if "simulator.worker.main" in " ".join(each.cmdline())]


@pytest.mark.parametrize("which", [[0], [3], [0, 1, 2, 3]], ids=str)
@SLOW
@pytest.mark.usefixtures("started")
def test_shards_killed_while_one_trains_and_the_others_are_idle(references, tmp_path, orders, which):
    """One simulator waits for its shard and the other for the scheduler, whoever is killed."""
    data, expected = references("federated")
    uid = cohort(expected, 2)[4]
    order(orders, f"train {DAY} 2 {uid}", then=["wait"])
    os.mkfifo(orders / "go")
    go = os.open(orders / "go", os.O_RDWR)
    output = tmp_path / "out"
    process = start(DEADLY, data, *BASE, "--shards", 2, "--output", output, ranks=3)
    try:
        read_until(process, "waiting")
        shards = shards_of(process)
        assert len(shards) == 4
        for index in which:
            shards[index].send_signal(signal.SIGKILL)
        psutil.wait_procs([shards[index] for index in which], timeout=10)
        os.write(go, b"!")
        text = process.stdout.read()
        assert process.wait(60) == 0, text
    finally:
        if process.poll() is None:
            kill_all(process)
        process.stdout.close()
        os.close(go)
    assert_same_record(output, expected)
    assert text.count("another takes its place") == len(which)
