"""Whatever algorithm or filter is registered, while rates change: placement changes no bit, nor does a kill."""

import inspect
import json
import os
import re

import pytest
from deadly_task import ORDERS, order
from running import ROOT, TINY, assert_same_record, kill_all, read_until, run, start
from tiny_task import make_data

import trainer
from scheduler import ALGORITHMS, FILTERS

assert trainer  # registers them
pytestmark = pytest.mark.usefixtures("forks")
FLAGS = ["--rounds", 4, "--sample-num", 5, "--eval-every", 2, "--seed", 3, "--lr", 0.3, "--server-lr", 1, "--shuffle",
         "--epochs", 2, "--progress", "plain", "--private", "norm._mean,norm._variance",
         "--lr-schedule", "step(every=3, factor=0.5)", "--server-schedule", "warmup(rounds=6)"]  # fmt: skip
DEADLY = ROOT / "tests" / "deadly_task.py"
DAYS = ("20200101", "20200102", "20200103")


def choices():
    """(setting, choice) of everything registered; a number without a default is 0.3.  And of what a user may keep."""
    yield "--local-optimizer", "adam(keep=True)"
    for flag, registry in (("--algorithm", ALGORITHMS), ("--filter", FILTERS)):
        for name in registry:
            empty = inspect.Parameter.empty
            needed = [key for key, each in registry.arguments(name).items() if each.default is empty]
            yield flag, f"{name}({', '.join(f'{key}=0.3' for key in needed)})"


CHOICES = list(choices())
# The others take as long, and are tried by CI.
FIRST = ("scaffold()",)
MARKED = [pytest.param(*each, id=each[1], marks=[] if each[1] in FIRST else pytest.mark.slow) for each in CHOICES]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), days=DAYS)


def test_the_papers_are_there():
    assert {"fedavg", "fedprox", "scaffold", "fednova", "ditto", "fedrep", "finetune"} <= set(ALGORITHMS)
    assert {"clip", "dp"} <= set(FILTERS)
    for registry in (ALGORITHMS, FILTERS):
        for kind in registry.values():
            assert inspect.getdoc(kind).partition("\n")[0].endswith(".")


@pytest.mark.parametrize(("flag", "choice"), MARKED)
def test_neither_placement_nor_a_kill_changes_a_bit(data, tmp_path, monkeypatch, flag, choice):
    """One shard alone, and three simulators that exchange over connections, until all are killed.

    SIGKILL comes in the third round of the second day, when a user has trained and what it keeps is stored; the run
    goes on with one simulator of three shards, which share memory.
    """
    expected, output, orders = tmp_path / "alone", tmp_path / "out", tmp_path / "orders"
    run(TINY, data, *FLAGS, flag, choice, "--shards", 1, "--output", expected)
    uid = json.loads((expected / "cohorts.json").read_text())[6][0]
    order(orders, f"kept 20200102 3 {uid}", then=["wait"])
    os.mkfifo(orders / "go")
    monkeypatch.setenv(ORDERS, str(orders))
    streamed = ["--no-shared-memory", "--exchange", "always", "--shards", 2, "--checkpoint-every", 1]
    process = start(DEADLY, data, *FLAGS, flag, choice, *streamed, "--output", output, ranks=4)
    read_until(process, "waiting")
    kill_all(process)
    process.stdout.close()
    here = ["--shared-memory", "--exchange", "auto", "--shards", 3]
    done = run(DEADLY, "--resume", output, *here, ranks=2)
    # The checkpoint of round 6 may just have been on its way.
    assert re.search("resumed after round [56] of the run, date 20200102", done.stdout + done.stderr)
    assert_same_record(output, expected)
