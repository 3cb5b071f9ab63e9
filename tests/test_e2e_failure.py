"""Whatever fails but a shard, the run ends within seconds, non-zero, with one message and nothing left behind."""

import json
import signal
import sys
import time

import numpy as np
import psutil
import pytest
from leaf_data import make_leaf
from running import ROOT, TINY, kill_all, read_until, run, start, tree
from tiny_task import make_data

BOUND = 10.0
SMALL_LM = ROOT / "tests" / "small_lm.py"
RUN = ["--rounds", 2, "--sample-num", 12, "--shards", 2, "--test-sampler", "none"]
pytestmark = pytest.mark.usefixtures("forks", "scratch")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def fails(*arguments, script=TINY, ranks=2, code=None):
    """Runs; checks that it failed; returns its stderr."""
    done = run(script, *arguments, ranks=ranks, check=False)
    assert done.returncode != 0
    assert code is None or done.returncode == code
    return done.stderr


def one_line(text):
    """The only line of an error output."""
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) == 1, text
    return lines[0]


# -- exceptions in user code -------------------------------------------------


EXCHANGE = ["--no-shared-memory", "--exchange", "always"]  # the others wait for the sums of the one that fails


@pytest.mark.parametrize(
    ("ranks", "more"), [(1, []), *(pytest.param(3, more, marks=pytest.mark.slow) for more in ([], EXCHANGE))]
)
def test_an_exception_in_a_trainer_names_uid_date_and_round(data, tmp_path, ranks, more):
    began = time.monotonic()
    trouble = ["--trouble", "raise", "--trouble-uid", "user005"]
    text = fails(data, *RUN, *trouble, *more, "--output", tmp_path, ranks=ranks)
    assert time.monotonic() - began < 60
    assert "date 20200101, round 1, uid 'user005'" in text
    assert "RuntimeError: a mistake in user code" in text
    assert text.count("Traceback") == 1


def test_nan_in_a_delta_names_uid_and_parameter(data, tmp_path):
    text = one_line(fails(data, *RUN, "--trouble", "nan", "--trouble-uid", "user003", "--output", tmp_path))
    assert "date 20200101, round 1" in text
    assert "uid 'user003'" in text
    assert "NaN or infinity in the delta of parameter 'hidden.weight'" in text


# -- killed processes ----------------------------------------------------------


def hanging_run(data, output, ranks):
    arguments = ["--trouble", "hang", "--trouble-uid", "user005", "--output", output]
    process = start(TINY, data, *RUN, *arguments, ranks=ranks)
    read_until(process, "hanging")
    return process


def ends(process, processes):
    """The run ends within the bound, non-zero, and so does every process of it."""
    try:
        # The child first: psutil would take its exit status away.
        assert process.wait(BOUND) != 0
        _, alive = psutil.wait_procs(processes, timeout=BOUND)
        assert alive == []
    finally:
        for each in processes:
            if each.is_running():
                each.kill()
        process.stdout.close()


def roles(process):
    """Process -> what it plays, told from its command line."""
    found = {}
    for each in tree(process):
        words = " ".join(each.cmdline())
        name = "shard" if "simulator.worker.main" in words else "rank" if "tiny_task" in words else "launcher"
        if each.cmdline()[0].endswith("mpirun") or "mpiexec" in each.name():
            name = "mpirun"
        found.setdefault(name, []).append(each)
    return found


@pytest.mark.parametrize(
    ("role", "index"),
    [
        ("rank", 0),
        *(
            pytest.param(*which, marks=pytest.mark.slow)
            for which in (("mpirun", 0), ("launcher", 0), ("rank", 1), ("rank", 2))
        ),
    ],
)
@pytest.mark.usefixtures("started")
def test_sigkill_of_any_process_ends_the_run(data, tmp_path, role, index):
    process = hanging_run(data, tmp_path, ranks=3)
    by_role = roles(process)
    assert (len(by_role["rank"]), len(by_role["shard"])) == (3, 4)
    everything = tree(process)
    by_role[role][index].send_signal(signal.SIGKILL)
    ends(process, everything)


@pytest.mark.usefixtures("started")
def test_sigkill_ends_a_run_of_one_rank(data, tmp_path):
    process = hanging_run(data, tmp_path, ranks=1)
    everything = tree(process)
    roles(process)["rank"][0].send_signal(signal.SIGKILL)
    ends(process, everything)


@pytest.mark.slow
@pytest.mark.usefixtures("started")
def test_sigkill_of_a_rank_ends_the_run_while_its_shard_is_replaced(data, tmp_path):
    """The new shard may not know yet where the store is that it has to remove."""
    process = hanging_run(data, tmp_path, ranks=1)
    shard = roles(process)["shard"][0]
    shard.send_signal(signal.SIGKILL)
    read_until(process, "another takes its place")
    everything = tree(process)
    roles(process)["rank"][0].send_signal(signal.SIGKILL)
    ends(process, everything)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("started")
def test_ctrl_c_ends_the_run_without_a_traceback(data, tmp_path, ranks):
    process = hanging_run(data, tmp_path, ranks=ranks)
    everything = tree(process)
    try:
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND) != 0
        _, alive = psutil.wait_procs(everything, timeout=BOUND)
        assert alive == []
        text = process.stdout.read()
    finally:
        if process.poll() is None:
            kill_all(process)
        process.stdout.close()
    assert "interrupted" in text
    assert "Traceback" not in text


# -- bad input -----------------------------------------------------------------


def test_a_missing_data_folder(tmp_path):
    assert "missing" in one_line(fails(tmp_path / "nothere", *RUN, code=2))


def test_no_day_folders(tmp_path):
    assert "no day folders" in one_line(fails(tmp_path, *RUN, code=2))


def test_an_unknown_setting_is_said_once(data):
    text = fails(data, "--nonsense", 1, code=2)
    assert text.count("--nonsense") == 1


def test_a_cohort_larger_than_the_users(data, tmp_path):
    text = one_line(fails(data, "--sample-num", 13, "--shards", 1, "--output", tmp_path))
    assert "--sample-num 13" in text
    assert "12 users" in text


@pytest.mark.slow
def test_an_unknown_uid_in_a_plan(data, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps([["user001"], ["nobody"]]))
    flags = ["--sampler", "fixed", "--plan", tmp_path / "plan.json", "--rounds", 2, "--shards", 1]
    text = one_line(fails(data, *flags, "--output", tmp_path / "out"))
    assert "'nobody'" in text
    assert "cohort 1" in text


@pytest.mark.slow
def test_a_user_with_no_examples_names_file_and_uid(tmp_path):
    data = make_data(tmp_path / "data")
    path = data / "20200101" / "train_1.json"
    path.write_text(json.dumps({"idle": {"x": [], "y": []}}))
    text = one_line(fails(data, *RUN, "--output", tmp_path / "out", ranks=3))
    assert str(path) in text
    assert "'idle'" in text


def leaf_fails(tmp_path, change):
    data = make_leaf(tmp_path / "leaf")
    path = data / "20200101" / "train_data.json"
    path.write_text(change(path.read_text()))
    return path, one_line(fails(data, "--rounds", 1, "--shards", 1, "--output", tmp_path / "out", script=SMALL_LM))


def test_a_file_that_is_not_json_names_file_and_line(tmp_path):
    path, text = leaf_fails(tmp_path, lambda content: content.replace(', "user_data"', ',\n "user_data" oops', 1))
    assert f"{path}: not JSON at line 2" in text


@pytest.mark.slow
def test_x_and_y_that_do_not_match_name_file_and_uid(tmp_path):
    def shorten(content):
        parsed = json.loads(content)
        parsed["user_data"]["reader3"]["y"].pop()
        return json.dumps(parsed)

    path, text = leaf_fails(tmp_path, shorten)
    assert str(path) in text
    assert "'reader3'" in text
    assert "do not match" in text


def test_a_pattern_that_matches_nothing_lists_the_names(data, tmp_path):
    text = one_line(fails(data, *RUN, "--private", "head.*", "--output", tmp_path))
    assert "'head.*'" in text
    assert "hidden.weight" in text
    assert "out.bias" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["names", *(pytest.param(k, marks=pytest.mark.slow) for k in ("shape", "nan", "garbage"))]
)
def test_bad_initial_parameters(data, tmp_path, kind):
    good = {"hidden.weight": (6, 5), "hidden.bias": (5,), "norm.weight": (5,), "norm.bias": (5,), "norm._mean": (5,),
            "norm._variance": (5,), "out.weight": (5, 3), "out.bias": (3,)}  # fmt: skip
    arrays = {name: np.zeros(shape, "float32") for name, shape in good.items()}
    if kind == "names":
        arrays["out.bia"] = arrays.pop("out.bias")
    if kind == "shape":
        arrays["out.bias"] = np.zeros(4, "float32")
    if kind == "nan":
        arrays["out.bias"][1] = np.nan
    path = tmp_path / "start.npz"
    np.savez(path, **arrays)
    if kind == "garbage":
        path.write_bytes(b"no such thing")
    text = one_line(fails(data, *RUN, "--init", path, "--output", tmp_path / "out", ranks=3))
    assert str(path) in text
    assert {"names": "out.bia", "shape": "out.bias is float32[4]", "nan": "NaN", "garbage": "cannot be read"}[
        kind
    ] in text


def test_an_output_folder_that_cannot_be_made(data, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in one_line(fails(data, *RUN, "--output", tmp_path / "file" / "out", code=2))


@pytest.mark.parametrize(("first", "second"), [(["--rounds", "1"], ["--bogus"]), (["--bogus"], ["--rounds", "1"])])
def test_a_mistake_in_one_rank_s_settings_ends_all(tmp_path, first, second):
    # As with a --config file that only one host has: the others must not wait for the rank that has left.
    one = ["mpirun", "-np", "1", sys.executable, str(TINY), str(tmp_path), *first, ":", "-np", "2"]
    done = run(TINY, tmp_path, *second, mpirun=one, check=False, timeout=30)
    assert done.returncode == 2
    assert "unrecognized arguments: --bogus" in done.stderr
    assert "BAD TERMINATION" not in done.stdout
