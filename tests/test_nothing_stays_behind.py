"""Nothing of one user reaches the next, in training or in tests, whatever a model or a trainer changes."""

import pytest
from running import ROOT, assert_same_record, run
from tiny_task import make_data

LEAKY = ROOT / "tests" / "leaky_task.py"
ARGUMENTS = ["--rounds", 3, "--sample-num", 5, "--eval-every", 2, "--lr", 0.3, "--server-lr", 1]
KINDS = {
    "shared buffers": [],
    "private buffers": ["--private", "seen,trace,norm.*"],
    "a test that only looks": ["--trouble", "look"],
    "without federation": ["--mode", "centralized"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k != "private buffers")) for k in KINDS])
def test_one_shard_or_six_on_three_ranks_give_the_same_bytes(data, tmp_path, kind, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    run(LEAKY, data, *ARGUMENTS, *KINDS[kind], "--shards", 1, "--output", tmp_path / "one")
    monkeypatch.setenv("PYTHONHASHSEED", "2")
    run(LEAKY, data, *ARGUMENTS, *KINDS[kind], "--shards", 2, "--output", tmp_path / "six", ranks=3)
    assert_same_record(tmp_path / "six", tmp_path / "one")


@pytest.mark.parametrize("trouble", ["", pytest.param("look", marks=pytest.mark.slow)])
def test_a_user_that_is_tested_alone_gets_the_same_figures(data, tmp_path, trouble):
    few = [*ARGUMENTS, "--rounds", 1, "--eval-every", 1, "--shards", 1, "--trouble", trouble]
    run(LEAKY, data, *few, "--output", tmp_path / "all")
    run(LEAKY, data, *few, "--test-sampler", "one-percent", "--output", tmp_path / "one")
    alone = (tmp_path / "one" / "per_user.csv").read_text().splitlines()
    together = (tmp_path / "all" / "per_user.csv").read_text().splitlines()
    assert len(alone) == 2
    assert len(together) == 13
    assert set(alone) < set(together)


def test_rows_that_a_trainer_changes_and_does_not_tell_end_the_run(data, tmp_path):
    done = run(LEAKY, data, *ARGUMENTS, "--trouble", "rows", "--output", tmp_path, check=False)
    assert done.returncode == 1
    assert "touched_rows leaves out row 1 of 'out.weight', which the training of " in done.stderr
    assert "correct touched_rows of LeakyTrainer or return {}" in done.stderr
