"""Placement never changes a result: the same bits on any number of ranks and shards."""

import csv
import json

import pytest
from leaf_data import make_leaf
from running import ROOT, TINY, assert_same_record, metrics, params, private, run, same
from tiny_task import make_data

ARGUMENTS = ["--rounds", 3, "--sample-num", 5, "--eval-every", 2, "--seed", 7, "--lr", 0.3, "--server-lr", 1,
             "--shuffle", "--epochs", 2, "--private", "norm.*", "--train-last-day"]  # fmt: skip
FEW = [(1, 2), (2, 3), (3, 1)]
MORE = [(1, 1), (1, 3), (2, 1), (4, 3)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    data = make_data(tmp_path_factory.mktemp("data"), days=("20200101", "20200102", "20200103"))
    output = tmp_path_factory.mktemp("reference")
    run(TINY, data, *ARGUMENTS, "--shards", 1, "--output", output)
    return data, output


def check(reference, output, ranks, shards):
    data, expected = reference
    run(TINY, data, *ARGUMENTS, "--shards", shards, "--output", output, ranks=ranks)
    assert_same_record(output, expected)


@pytest.mark.parametrize(("ranks", "shards"), FEW)
def test_ranks_and_shards_do_not_change_a_bit(reference, tmp_path, ranks, shards):
    check(reference, tmp_path, ranks, shards)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "shards"), MORE)
def test_no_ranks_and_shards_change_a_bit(reference, tmp_path, ranks, shards):
    check(reference, tmp_path, ranks, shards)


def test_another_seed_gives_other_cohorts_and_parameters(reference, tmp_path):
    data, expected = reference
    run(TINY, data, *ARGUMENTS, "--seed", 8, "--shards", 2, "--output", tmp_path)
    assert (tmp_path / "cohorts.json").read_bytes() != (expected / "cohorts.json").read_bytes()
    assert not same(params(tmp_path), params(expected))


def test_each_round_and_test_tells_who_was_waited_for(reference):
    output = reference[1]
    with (output / "waiting.csv").open() as file, (output / "metrics.csv").open() as other:
        waiting, metrics = list(csv.DictReader(file)), list(csv.DictReader(other))
    same = ("date", "round", "phase", "wait", "seconds")
    assert [[row[name] for name in same] for row in waiting] == [[row[name] for name in same] for row in metrics]
    trained = [row for row in waiting if row["phase"] == "train"]
    for row, cohort in zip(trained, json.loads((output / "cohorts.json").read_text()), strict=True):
        assert row["uid"] in cohort
        assert 0 < float(row["turn"]) <= float(row["seconds"])


def test_private_parameters_differ_by_user_and_never_reach_the_scheduler(reference):
    _, expected = reference
    kept = private(expected)
    names = {"norm.weight", "norm.bias", "norm._mean", "norm._variance"}
    assert len(kept) > 3
    assert all(set(arrays) == names for arrays in kept.values())
    means = {arrays["norm._mean"].tobytes() for arrays in kept.values()}
    assert len(means) == len(kept)
    for name in ("initial", "final"):
        assert not names & set(params(expected, name))


def test_a_plan_replays_a_run_to_the_bit(reference, tmp_path):
    data, expected = reference
    replay = [*ARGUMENTS, "--sample-num", 10, "--sampler", "fixed", "--plan", expected / "cohorts.json",
              "--init", expected / "params" / "initial.npz", "--shards", 2]  # fmt: skip
    run(TINY, data, *replay, "--output", tmp_path)
    assert same(params(tmp_path), params(expected))


# -- users who are tested in one go ------------------------------------------------


def check_tests(data, folder, task, *flags):
    """A run by one shard, and one by two simulators: each group is tested whole by one of them."""
    arguments = ["--rounds", 2, "--sample-num", 6, "--eval-every", 1, "--seed", 5, "--progress", "none", *flags]
    one, other = folder / "one", folder / "other"
    run(task, data, *arguments, "--shards", 1, "--output", one)
    run(task, data, *arguments, "--shards", 1, "--output", other, ranks=3)
    assert_same_record(other, one)
    assert [row["phase"] for row in metrics(one)].count("test") == 2


@pytest.mark.slow
def test_users_of_the_language_model_are_tested_side_by_side_with_the_same_bits(tmp_path):
    data = make_leaf(tmp_path / "data", users=120)  # about 900 sequences: four groups
    check_tests(data, tmp_path, ROOT / "tests" / "small_lm.py", "--lr", 0.5)


@pytest.mark.slow
def test_users_with_biases_of_their_own_are_tested_side_by_side_with_the_same_bits(tmp_path):
    data = make_leaf(tmp_path / "data", users=120)
    check_tests(data, tmp_path, ROOT / "tests" / "small_lm.py", "--lr", 0.5, "--private", "out.bias")


@pytest.mark.slow
def test_independent_examples_are_tested_side_by_side_with_the_same_bits(tmp_path):
    data = make_data(tmp_path / "data", users=40)
    check_tests(data, tmp_path, ROOT / "tests" / "rows_task.py", "--lr", 0.1)
