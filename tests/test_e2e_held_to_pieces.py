"""What a run is held to when it is resumed, and on all its ranks: the values its pieces hold."""

import sys

import pytest
import yaml
from running import ROOT, run
from tiny_task import make_data

pytestmark = pytest.mark.usefixtures("forks")

TASK = ROOT / "tests" / "held_task.py"
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A run on three ranks with a checkpoint; its sampler holds a generator."""
    data = make_data(tmp_path_factory.mktemp("data"))
    output = tmp_path_factory.mktemp("run") / "held"
    run(TASK, data, "--rounds", 2, "--checkpoint-every", 1, "--shards", 1, "--output", output, ranks=3)
    return data, output


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HELD_MU", "0.5", "settings: trainer HeldTrainer: mu was 0.1, is 0.5\n"),
        pytest.param("HELD_SEED", "4", "settings: sampler Drawn: rng was Generator ", marks=SLOW),
        pytest.param("HELD_FUNCTION", "other", "settings: sampler Drawn: scale was <lambda> ", marks=SLOW),
    ],
)
def test_a_run_goes_on_with_the_values_it_had(held, monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    done = run(TASK, "--resume", held[1], check=False)
    assert done.returncode == 2
    assert f"error: --resume: the run cannot go on with other {said}" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "error" in line]) == 1


def test_the_record_says_what_the_page_has_set(held):
    pieces = yaml.safe_load((held[1] / "config.yaml").read_text())["pieces"]
    assert pieces["trainer"] == {
        "class": "HeldTrainer", "mu": "0.1", "shuffle": "False", "trouble": "''", "trouble_uid": "''",
        "drop_last": "False", "local_rule": "None", "lr_by_round": "None",
    }  # fmt: skip
    assert pieces["server optimizer"]["learning_rate"] == "1.0"
    assert pieces["sampler"]["scale"].startswith("<lambda> ")


@SLOW
def test_a_run_goes_on_in_another_process_with_the_same_values(held, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    done = run(TASK, "--resume", held[1], "--shards", 1)
    assert "resumed after round 2 of the run" in done.stdout + done.stderr


@SLOW
def test_ranks_with_other_values_are_refused_at_the_start(held, tmp_path):
    first = [sys.executable, TASK, held[0], "--output", tmp_path / "out"]
    mpirun = ["mpirun", "-np", "1", *first, ":", "-np", "1", "env", "HELD_MU=0.5"]
    done = run(TASK, held[0], "--output", tmp_path / "out", mpirun=list(map(str, mpirun)), check=False)
    assert done.returncode != 0
    assert (
        "error: rank 1 has other settings than rank 0: trainer HeldTrainer: mu is 0.5 here and 0.1 there; "
        "give all ranks the same command line and files" in done.stderr
    )
    assert not (tmp_path / "out").exists()
