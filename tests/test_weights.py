"""Users' weights: of any size, known when data is loaded, of all examples of a user wherever they were read."""

import json

import pytest
from running import ROOT, TINY, assert_same_record, params, run, same
from tiny_task import make_data

WEIGHTS = ROOT / "tests" / "weights_task.py"
ARGUMENTS = ["--rounds", 2, "--sample-num", 5, "--lr", 0.3, "--server-lr", 1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def test_weights_scaled_by_a_power_of_two_change_no_bit(data, tmp_path):
    run(TINY, data, *ARGUMENTS, "--output", tmp_path / "plain")
    run(WEIGHTS, data, *ARGUMENTS, "--trouble", "scaled", "--output", tmp_path / "scaled")
    assert same(params(tmp_path / "plain"), params(tmp_path / "scaled"))


def test_a_user_of_several_files_weighs_what_it_weighs_in_one_file(data, tmp_path):
    for day in sorted(data.iterdir()):
        (tmp_path / "joined" / day.name).mkdir(parents=True)
        for split in ("train", "test"):
            whole = {}
            for path in sorted(day.glob(f"{split}_*.json")):
                for uid, user in json.loads(path.read_text()).items():
                    known = whole.setdefault(uid, {"x": [], "y": []})
                    known["x"] += user["x"]
                    known["y"] += user["y"]
            (tmp_path / "joined" / day.name / f"{split}.json").write_text(json.dumps(whole))
    run(WEIGHTS, data, *ARGUMENTS, "--trouble", "root", "--output", tmp_path / "several", ranks=3)
    run(WEIGHTS, tmp_path / "joined", *ARGUMENTS, "--trouble", "root", "--output", tmp_path / "one")
    assert_same_record(tmp_path / "several", tmp_path / "one")


@pytest.mark.slow
def test_users_of_weight_zero_train_and_do_not_count(data, tmp_path):
    run(WEIGHTS, data, *ARGUMENTS, "--trouble", "some", "--private", "norm.*", "--output", tmp_path / "one")
    run(WEIGHTS, data, *ARGUMENTS, "--trouble", "some", "--private", "norm.*", "--output", tmp_path / "six", ranks=3)
    assert_same_record(tmp_path / "six", tmp_path / "one")


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (
            "nan",
            ".json: uid 'user000': WeightsTrainer.weight gives nan; it must be a finite number, 0 (not counted) or",
        ),
        pytest.param("negative", "WeightsTrainer.weight gives -", marks=pytest.mark.slow),
        pytest.param("text", "WeightsTrainer.weight gives 'heavy'; it must be a finite number", marks=pytest.mark.slow),
        pytest.param("nobody", "round 1: all 5 users of the cohort have weight 0", marks=pytest.mark.slow),
    ],
)
def test_a_weight_that_is_none_ends_the_run_in_one_line(data, tmp_path, kind, line):
    done = run(WEIGHTS, data, *ARGUMENTS, "--trouble", kind, "--output", tmp_path, check=False)
    assert done.returncode == 1
    assert line in done.stderr
    assert "Traceback" not in done.stderr
