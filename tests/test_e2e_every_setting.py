"""The README's task with each setting set to an extreme: refused in one line, or it does what it says."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from running import ROOT, TIMEOUT, command, params, same
from test_docs import programs

from simulator import Settings
from simulator.launch.addresses import own_addresses

pytestmark = pytest.mark.usefixtures("forks")

MOST = (1 << 31) - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    for name, content in programs().items():
        (folder / name).write_text(content, encoding="utf-8")
    subprocess.run([sys.executable, "make_data.py"], cwd=folder, check=True)
    (folder / "one.yaml").write_text("rounds: 1\n")
    return folder


def play(folder, *arguments):
    """Three rounds of the README's task in one shard, but for what the arguments say; the record and what was said."""
    output = folder / "-".join(map(str, arguments)).replace("/", "_").strip("-") if arguments else folder / "plain"
    before = [] if "--config" in arguments else ["--rounds", 3]
    given = [*before, "--shards", 1, "--output", output, *arguments]
    done = subprocess.run(
        command("my_task.py", "data", *given),
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        timeout=TIMEOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done, output


@pytest.fixture(scope="module")
def plain(folder):
    done, output = play(folder)
    assert done.returncode == 0, done.stderr
    return output


def rows(output, phase):
    with (output / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["phase"] == phase]


def cohorts(output):
    return json.loads((output / "cohorts.json").read_text())


def other_end(output, plain):
    return not same(params(output), params(plain))


def other_start(output, plain):
    return not same(params(output, "initial"), params(plain, "initial"))


def of_this_size(size):
    return lambda output, plain: all(len(cohort) == size for cohort in cohorts(output))


def moved(output):
    """How far the biases, which start at 0, have gone at most: there small steps are not rounded away."""
    before, after = params(output, "initial"), params(output)
    assert not any(before[name].any() for name in ("hidden.bias", "out.bias"))
    return max(np.abs(after[name]).max() for name in ("hidden.bias", "out.bias"))


def bounded(output, plain):
    """Gradients of norm 1e-6, with rate 0.2, at most 12 steps of a user a round, three rounds."""
    return 0 < moved(output) < 3 * 12 * 0.2 * 1e-6


def shards(output):
    return yaml.safe_load((output / "config.yaml").read_text())["ranks"][0]["shards"]


def from_plain(output, plain):
    return same(params(output, "initial"), params(plain))


def always_the_same(output, plain):
    return cohorts(output)[0] == cohorts(output)[2] != cohorts(plain)[0]


def never_all(output, plain):
    """New users are told beside the others, and none of them trains."""
    test = rows(output, "test")[0]
    with_users = list(csv.DictReader((output / "per_user.csv").read_text(encoding="utf-8").splitlines()))
    new = {row["uid"] for row in with_users if row["new_top1"]}
    assert int(test["new_users"]) == len(new)
    assert int(test["users"]) == 50 - len(new)
    return new and not any(new & set(cohort) for cohort in cohorts(output))


REFUSED = None
HERE = next((each.interface for each in own_addresses() if not each.is_loopback), None)
# Setting -> its extremes: the arguments, and what shows in the record that they are in force; or a refusal.
EXTREMES = {
    "data": [(["nowhere"], REFUSED)],
    "config": [(["--config", "one.yaml"], lambda output, plain: len(rows(output, "train")) == 1)],
    "output": [(["--output", "other"], lambda output, plain: (output.parent / "other" / "metrics.csv").exists())],
    "resume": [(["--resume", "nowhere"], REFUSED)],
    "checkpoint_every": [(["--checkpoint-every", 1], lambda output, plain: (output / "checkpoints").exists())],
    "grace": [(["--grace", 0], REFUSED), (["--grace", 1e9], "")],  # what it is for is in test_preemption
    "rounds": [(["--rounds", 0], lambda output, plain: rows(output, "train") == [])],
    "mode": [(["--mode", "centralized"], other_end)],
    "seed": [(["--seed", (1 << 63) - 1], other_start)],
    "init": [(["--init", "plain/params/final.npz"], from_plain), (["--init", "nowhere"], REFUSED)],
    "train_last_day": [(["--train-last-day"], REFUSED)],  # the README's last day has no training data
    "algorithm": [(["--algorithm", "nothing"], REFUSED)],
    "filter": [(["--filter", "nothing"], REFUSED)],
    "sampler": [(["--sampler", "uniform(50)"], of_this_size(50)), (["--sampler", "hash(20)"], always_the_same),
                (["--sampler", "uniform(3)", "--sample-num", 4], REFUSED),
                (["--sampler", "hash", "--hash-percent", 20], always_the_same), (["--sampler", "fixed"], REFUSED)],
    "sample_num": [(["--sample-num", 50], of_this_size(50)), (["--sample-num", MOST], REFUSED),
                   (["--sample-num", 3, "--sampler", "hash"], REFUSED)],
    "min_ins_num": [(["--min-ins-num", 40], lambda output, plain: cohorts(output) != cohorts(plain)),
                    (["--min-ins-num", MOST], REFUSED)],
    "hash_percent": [(["--hash-percent", 100], REFUSED),
                     (["--hash-percent", 100, "--sampler", "hash"], of_this_size(50))],
    "plan": [(["--plan", "plain/cohorts.json"], REFUSED)],
    "hold_out_users": [(["--hold-out-users", 0.2], never_all), (["--hold-out-users", 1e-9], REFUSED),
                       (["--hold-out-users", 0.999], REFUSED)],
    "epochs": [(["--epochs", 20], other_end)],
    "batch_size": [(["--batch-size", MOST], other_end)],
    "lr": [(["--lr", 1e-30], other_end), (["--lr", 1e30], REFUSED)],
    "max_grad_norm": [(["--max-grad-norm", 1e-6], bounded)],
    "private": [(["--private", "out.bias"], lambda output, plain: "out.bias" not in params(output)),
                (["--private", "*"], REFUSED)],
    "server_optimizer": [(["--server-optimizer", "fedadam"], other_end),
                         (["--server-optimizer", "fedavg(lr=1e-30)"], lambda output, plain: moved(output) < 1e-28)],
    "server_lr": [(["--server-lr", 1e-30], lambda output, plain: moved(output) < 1e-28),
                  (["--server-lr", 2, "--mode", "centralized"], REFUSED)],
    "server_schedule": [(["--server-schedule", "warmup(1000000000)"], lambda output, plain: moved(output) < 1e-6),
                        (["--server-schedule", "step(every=0)"], REFUSED),
                        (["--server-schedule", "cosine(2)"], REFUSED)],  # of three rounds
    "local_optimizer": [(["--local-optimizer", "adam(keep=True)"], other_end),
                        (["--local-optimizer", "sgd(momentum=0.9)", "--algorithm", "pfedme"], REFUSED)],
    "lr_schedule": [(["--lr-schedule", "warmup(1000000000)"], lambda output, plain: moved(output) < 1e-6),
                    (["--lr-schedule", "nothing"], REFUSED)],
    "test_sampler": [(["--test-sampler", "none"], lambda output, plain: rows(output, "test") == [])],
    "eval_every": [(["--eval-every", 1], lambda output, plain: len(rows(output, "test")) == 3),
                   (["--eval-every", MOST], REFUSED), (["--eval-every", 1, "--test-sampler", "none"], REFUSED)],
    "shards": [(["--shards", 3], lambda output, plain: shards(output) == 3)],
    "interface": [(["--interface", "nowhere"], REFUSED), (["--interface", HERE], "has nothing to do")],
    "exchange": [(["--exchange", "always"], "has nothing to do")],
    "cache": [(["--cache", "kept"], "train: 0 of 1 files were in --cache"), (["--cache", "data"], REFUSED)],
    "progress": [(["--progress", "none"], "")],
}  # fmt: skip
# Of speed alone: tried in test_machine and test_exchange.
SPEED = {"tune", "shared_memory"}
CASES = [(name, *case) for name, cases in EXTREMES.items() for case in cases]


def test_every_setting_is_tried():
    assert set(EXTREMES) | SPEED == set(Settings.model_fields)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments", "shows"), CASES, ids=[" ".join(map(str, case[1])) for case in CASES])
def test_a_setting_at_its_extreme_is_refused_or_in_force(folder, plain, name, arguments, shows):
    if None in arguments:
        pytest.skip("this host has no address but its own")
    done, output = play(folder, *arguments)
    if shows is REFUSED:
        assert done.returncode != 0
        lines = [line for line in done.stderr.splitlines() if re.match(r"(my_task\.py: )?(error|rank 0): ", line)]
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stderr
        return
    assert done.returncode == 0, done.stderr
    if isinstance(shows, str):
        assert shows in done.stdout + done.stderr
    else:
        assert shows(output, plain)
