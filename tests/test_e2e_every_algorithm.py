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


def mark(choice):
    return pytest.param(*choice, id=choice[1], marks=[] if choice[1] in FIRST else pytest.mark.slow)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), days=DAYS)


@pytest.fixture(scope="module")
def references(data, tmp_path_factory):
    """The record of each choice on one rank with one shard, made when it is first asked for."""
    made = {}

    def of(flag, choice):
        if choice not in made:
            made[choice] = tmp_path_factory.mktemp("reference")
            run(TINY, data, *FLAGS, flag, choice, "--shards", 1, "--output", made[choice])
        return made[choice]

    return of


def test_the_papers_are_there():
    assert {"fedavg", "fedprox", "scaffold", "fednova", "ditto", "fedrep", "finetune"} <= set(ALGORITHMS)
    assert {"clip", "dp"} <= set(FILTERS)
    for registry in (ALGORITHMS, FILTERS):
        for kind in registry.values():
            assert inspect.getdoc(kind).partition("\n")[0].endswith(".")


@pytest.mark.parametrize(("flag", "choice"), [mark(each) for each in CHOICES])
def test_placement_and_exchange_change_no_bit(data, references, tmp_path, flag, choice):
    """Three simulators of one shard that exchange among themselves over connections."""
    streamed = ["--no-shared-memory", "--exchange", "always"]
    run(TINY, data, *FLAGS, flag, choice, *streamed, "--shards", 1, "--output", tmp_path, ranks=4)
    assert_same_record(tmp_path, references(flag, choice))


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "choice"), CHOICES)
def test_a_kill_changes_no_bit(data, references, tmp_path, monkeypatch, flag, choice):
    """SIGKILL of two ranks with three shards in the third round of the second day; the run goes on with others."""
    expected, orders, output = references(flag, choice), tmp_path / "orders", tmp_path / "out"
    uid = json.loads((expected / "cohorts.json").read_text())[6][0]
    order(orders, f"train 20200102 3 {uid}", then=["wait"])
    os.mkfifo(orders / "go")
    monkeypatch.setenv(ORDERS, str(orders))
    more = ["--checkpoint-every", 1, "--shards", 3, "--output", output]
    process = start(DEADLY, data, *FLAGS, flag, choice, *more, ranks=2)
    read_until(process, "waiting")
    kill_all(process)
    process.stdout.close()
    done = run(DEADLY, "--resume", output, "--shards", 1, ranks=3)
    # The checkpoint of round 6 may just have been on its way.
    assert re.search("resumed after round [56] of the run, date 20200102", done.stdout + done.stderr)
    assert_same_record(output, expected)
