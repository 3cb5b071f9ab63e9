"""simulator/output/record.py: what a run leaves behind is whole at any moment, and nothing old is lost."""

import csv
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from protos.errors import FLError
from scheduler.rules.metrics import UserResult
from scheduler.rules.samplers import FixedSampler, Round
from scheduler.service.messages import Layout, SimulatorInfo
from scheduler.state.rounds import RoundRecord, Timings
from simulator.npz import read_npz, write_arrays, write_npz
from simulator.output.record import RunRecord

DAY, NEXT = "20200101", "20200102"
TIMES = Timings(pull=0.125, train=1.0, push=0.25, wait=0.0625)
COLUMNS = [
    "date", "round", "phase", "users", "examples", "loss", "top1", "top1_user_mean", "top1_user_p10", "top1_user_p50",
    "top1_user_p90", "top1_user_worst10", "top1_user_variance", "seconds", "train", "pull", "push", "wait",
]  # fmt: skip


def user(uid, examples=2, **metrics):
    return UserResult(uid, examples, float(examples), metrics)


def trained(number, *users):
    return RoundRecord("train", Round(0, DAY, number, number - 1), users, 1.5, TIMES)


def evaluated(number, *users):
    return RoundRecord("test", Round(0, NEXT, number, number), users, 0.5, TIMES)


# ann and bob train, cid is held out.
HOLDS_ONE_OUT = (
    user("ann", 3, top1=(1.0, 5.0), personal_top1=(3.0, 5.0)),
    user("bob", 4, top1=(0.0, 5.0), personal_top1=(5.0, 5.0)),
    replace(user("cid", 9, new_top1=(4.0, 5.0), new_personal_top1=(2.0, 5.0)), new=True),
)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cohorts(folder):
    return json.loads((folder / "cohorts.json").read_text(encoding="utf-8"))


@pytest.fixture
def record(tmp_path):
    settings = {"rounds": 3, "data": "lm_data", "private": ["out.*"], "init": None}
    return RunRecord(tmp_path / "run", settings, result="top1")


# -- files -------------------------------------------------------------------------


def test_config_holds_settings_versions_and_who_took_part(record):
    infos = (SimulatorInfo(1, "here", "127.0.0.1:1", 2, (DAY,)), SimulatorInfo(2, "there", "10.0.0.1:2", 3, (NEXT,)))
    record.on_layout(Layout(infos, (DAY, NEXT)))
    content = yaml.safe_load((record.folder / "config.yaml").read_text(encoding="utf-8"))
    assert content["settings"] == {"rounds": 3, "data": "lm_data", "private": ["out.*"], "init": None}
    assert content["ranks"] == [
        {"rank": 1, "host": "here", "shards": 2},
        {"rank": 2, "host": "there", "shards": 3},
    ]
    assert content["days"] == [DAY, NEXT]
    assert content["versions"]["numpy"] == np.__version__
    assert {"python", "paddlepaddle", "grpcio", "protobuf", "mpi4py"} <= set(content["versions"])


def test_metrics_have_a_row_a_round_and_a_row_an_evaluation(record):
    """Loss (6 + 1) / (2 + 2) = 1.75, top1 (1 + 0) / 10 = 0.1; users' own top1 0.2 and 0."""
    ann, bob = user("ann", 3, loss=(6.0, 2.0), top1=(1.0, 5.0)), user("bob", 4, loss=(1.0, 2.0), top1=(0.0, 5.0))
    record.on_record(trained(1, ann, bob))
    record.on_record(evaluated(1, ann, bob))
    one, two = rows(record.folder / "metrics.csv")
    assert list(one) == COLUMNS
    same = {"users": "2", "examples": "7", "loss": "1.75", "top1": "0.1"}
    times = {"train": "1.000000", "pull": "0.125000", "push": "0.250000", "wait": "0.062500"}
    spread = dict.fromkeys(COLUMNS[7:13], "")
    assert one == {"date": DAY, "round": "1", "phase": "train", **same, **spread, "seconds": "1.500000", **times}
    shares = [float(two[column]) for column in COLUMNS[7:13]]
    assert shares == pytest.approx([0.1, 0.02, 0.1, 0.18, 0.0, 0.01])
    assert {k: v for k, v in two.items() if k not in spread} == {
        "date": NEXT, "round": "1", "phase": "test", **same, "seconds": "0.500000", **times,
    }  # fmt: skip


def test_numbers_keep_all_their_digits_and_nothing_stands_for_none(record):
    record.on_record(trained(1, user("ann", loss=(1.0, 3.0))))
    record.on_record(trained(2, user("ann", loss=(0.0, 0.0))))
    one, two = rows(record.folder / "metrics.csv")
    assert float(one["loss"]) == 1 / 3
    assert (one["top1"], two["loss"]) == ("", "")


def test_a_metric_of_ones_own_has_a_column(record):
    record.on_record(trained(1, user("ann", loss=(1.0, 1.0), fairness=(3.0, 4.0))))
    (row,) = rows(record.folder / "metrics.csv")
    assert row["fairness"] == "0.75"
    assert set(row) == {*COLUMNS, "fairness"}


def test_a_metric_that_only_evaluations_have_is_not_lost(record):
    """A trainer may well measure in evaluate_user what it does not in train_user."""
    record.on_record(trained(1, user("ann", loss=(1.0, 1.0))))
    record.on_record(evaluated(1, user("ann", loss=(1.0, 1.0), auc=(3.0, 4.0))))
    with (record.folder / "metrics.csv").open(encoding="utf-8") as file:
        assert "0.75" in file.read()


def test_new_users_and_users_own_models_stand_beside_the_others(record):
    """Own top1 of ann and bob 1/5 and 0, with their own models 3/5 and 1; cid is new: 4/5, and 2/5 with its own."""
    record.on_record(evaluated(4, *HOLDS_ONE_OUT))
    (row,) = rows(record.folder / "metrics.csv")
    assert (row["users"], row["examples"], row["new_users"]) == ("2", "7", "1")
    means = {"top1": 0.1, "personal_top1": 0.8, "new_top1": 0.8, "new_personal_top1": 0.4}
    assert {name: float(row[name]) for name in means} == pytest.approx(means)
    # The worst tenth is one user here; of two users the variance is the square of half their difference.
    worst = {"top1": 0.0, "personal_top1": 0.6, "new_top1": 0.8, "new_personal_top1": 0.4}
    assert {name: float(row[f"{name}_user_worst10"]) for name in worst} == worst
    variance = {"top1": 0.01, "personal_top1": 0.04, "new_top1": 0.0, "new_personal_top1": 0.0}
    assert {name: float(row[f"{name}_user_variance"]) for name in variance} == pytest.approx(variance)


def test_the_histograms_of_a_test_by_hand(record):
    """Ten ranges from 0 to 1 each; a value on an edge is in the range that begins there, 1 in the last."""
    record.on_record(evaluated(4, *HOLDS_ONE_OUT))
    got = rows(record.folder / "fairness.csv")
    assert [row["metric"] for row in got[::10]] == ["top1", "personal_top1", "new_top1", "new_personal_top1"]
    assert {(row["date"], row["round"]) for row in got} == {(NEXT, "4")}
    for first in range(0, 40, 10):
        edges = [(float(row["low"]), float(row["high"])) for row in got[first : first + 10]]
        assert edges == [(k / 10, (k + 1) / 10) for k in range(10)]
    users = {(row["metric"], round(10 * float(row["low"]))): int(row["users"]) for row in got}
    assert {place: count for place, count in users.items() if count} == {
        ("top1", 0): 1, ("top1", 2): 1, ("personal_top1", 6): 1, ("personal_top1", 9): 1, ("new_top1", 8): 1,
        ("new_personal_top1", 4): 1,
    }  # fmt: skip


def test_how_users_differ_does_not_depend_on_their_order(record, tmp_path):
    other = RunRecord(tmp_path / "other", {}, result="top1")
    record.on_record(evaluated(4, *HOLDS_ONE_OUT))
    other.on_record(evaluated(4, *reversed(HOLDS_ONE_OUT)))
    for name in ("metrics.csv", "fairness.csv"):
        assert (record.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_a_resumed_run_has_each_histogram_once(record):
    record.on_layout(Layout((), (DAY, NEXT)))
    record.on_record(evaluated(4, *HOLDS_ONE_OUT))
    marks, before = record.mark(), (record.folder / "fairness.csv").read_bytes()
    record.on_record(evaluated(5, *HOLDS_ONE_OUT))
    resumed = RunRecord(record.folder, {}, result="top1", resumed=True)
    resumed.cut(marks, 4)
    assert (record.folder / "fairness.csv").read_bytes() == before
    resumed.on_record(evaluated(5, *HOLDS_ONE_OUT))
    assert [row["round"] for row in rows(record.folder / "fairness.csv")] == ["4"] * 40 + ["5"] * 40


def test_per_user_figures_of_every_evaluation(record):
    record.on_record(evaluated(0, user("ann", 3, loss=(6.0, 2.0), top1=(1.0, 5.0)), user("bö,b", 1, loss=(1.0, 1.0))))
    record.on_record(evaluated(5, user("ann", 3, loss=(1.0, 2.0), top1=(1.0, 2.0))))
    assert rows(record.folder / "per_user.csv") == [
        {"date": NEXT, "round": "0", "uid": "ann", "examples": "3", "loss": "3.0", "loss_count": "2.0", "top1": "0.2",
         "top1_count": "5.0"},
        {"date": NEXT, "round": "0", "uid": "bö,b", "examples": "1", "loss": "1.0", "loss_count": "1.0", "top1": "",
         "top1_count": ""},
        {"date": NEXT, "round": "5", "uid": "ann", "examples": "3", "loss": "0.5", "loss_count": "2.0", "top1": "0.5",
         "top1_count": "2.0"},
    ]  # fmt: skip


def test_an_evaluation_with_other_metrics_does_not_shift_columns(record):
    record.on_record(evaluated(1, user("ann", loss=(6.0, 2.0), top1=(1.0, 5.0))))
    record.on_record(evaluated(2, user("bob", top1=(1.0, 2.0))))
    record.on_record(evaluated(3, user("cid", auc=(3.0, 4.0), top1=(1.0, 8.0))))
    got = rows(record.folder / "per_user.csv")
    assert [row["top1"] for row in got] == ["0.2", "0.5", "0.125"]
    assert [row["loss"] for row in got] == ["3.0", "", ""]


def test_parameters_are_kept_by_name(record):
    params = {"out.weight": np.array([[1.5, 2.0]], np.float32), "lstm.weight_ih_l0": np.array([3.0])}
    record.on_initial(params)
    record.save_params("final", {name: value + 1 for name, value in params.items()})
    for name, added in (("initial", 0), ("final", 1)):
        got = read_npz(record.folder / "params" / f"{name}.npz", "--init")
        assert list(got) == list(params)
        assert all((got[n] == params[n] + added).all() and got[n].dtype == params[n].dtype for n in params)


# -- cohorts -----------------------------------------------------------------------


def test_cohorts_are_whole_json_after_every_round_and_can_be_replayed(record):
    assert cohorts(record.folder) == []
    plan = [["ann", "bob"], ['q"uo,te]', "ö\n"], ["ann"]]
    for number, uids in enumerate(plan, start=1):
        record.on_record(trained(number, *(user(uid, loss=(1.0, 1.0)) for uid in uids)))
        assert cohorts(record.folder) == plan[:number]
        record.on_record(evaluated(number, user("tess", loss=(1.0, 1.0))))
        assert cohorts(record.folder) == plan[:number]
    assert FixedSampler.from_file(record.folder / "cohorts.json").plan == tuple(map(tuple, plan))


# -- an earlier record -------------------------------------------------------------


def fill(folder, mark):
    record = RunRecord(folder, {"mark": mark})
    record.on_layout(Layout((), (DAY,)))
    record.on_initial({"w": np.array([float(mark)])})
    record.on_record(trained(1, user(f"u{mark}", loss=(1.0, 1.0))))
    record.on_record(evaluated(1, user(f"u{mark}", loss=(1.0, 1.0))))


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_earlier_record_is_set_aside_and_never_lost(tmp_path):
    folder = tmp_path / "run"
    kept = {}
    for mark in (1, 2, 3):
        if mark > 1:
            kept[f"previous-{mark - 1}"] = {k: v for k, v in contents(folder).items() if not k.startswith("previous-")}
        fill(folder, mark)
        (folder / "notes.txt").write_text("mine", encoding="utf-8")
    for name, files in kept.items():
        files.pop("notes.txt")  # not of the record: it stays
        assert contents(folder / name) == files
    assert sorted(p.name for p in folder.iterdir()) == [
        "cohorts.json", "config.yaml", "metrics.csv", "notes.txt", "params", "per_user.csv", "previous-1", "previous-2",
    ]  # fmt: skip
    assert cohorts(folder) == [["u3"]]
    assert len(rows(folder / "metrics.csv")) == 2
    assert cohorts(folder / "previous-1") == [["u1"]]


def test_who_was_waited_for_is_in_a_file_of_its_own(record):
    times = replace(TIMES, last="ann, b", turn=0.75)
    record.on_record(replace(trained(1, user("ann, b"), user("c")), timings=times))
    record.on_record(replace(evaluated(1, user("c")), timings=replace(times, last="c")))
    record.on_record(trained(2))  # of nobody
    before = {"date": DAY, "round": "1", "phase": "train", "uid": "ann, b", "turn": "0.750000"}
    after = {"date": NEXT, "round": "1", "phase": "test", "uid": "c", "turn": "0.750000"}
    assert rows(record.folder / "waiting.csv") == [
        {**before, "wait": "0.062500", "seconds": "1.500000"}, {**after, "wait": "0.062500", "seconds": "0.500000"},
    ]  # fmt: skip


def test_a_checkpoint_that_knows_nothing_of_waiting_can_be_gone_on_with(record):
    record.on_layout(Layout((SimulatorInfo(1, "here", "127.0.0.1:1", 2, (DAY,)),), (DAY,)))
    marks = {name: mark for name, mark in record.mark().items() if name != "waiting.csv"}
    record.on_record(replace(trained(1, user("ann")), timings=replace(TIMES, last="ann")))
    again = RunRecord(record.folder, {}, result="top1", resumed=True)
    again.cut(marks, 0)
    assert not (record.folder / "waiting.csv").exists()
    again.on_record(replace(trained(1, user("ann")), timings=replace(TIMES, last="ann")))
    assert len(rows(record.folder / "waiting.csv")) == 1


# -- files that cannot be written ---------------------------------------------------


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(FLError, match=rf"^--output {tmp_path}/file/run cannot be written: Not a directory$"):
        RunRecord(tmp_path / "file" / "run", {})


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("config.yaml", lambda record: record.on_layout(Layout((), ()))),
        ("metrics.csv", lambda record: record.on_record(trained(1, user("ann")))),
        ("per_user.csv", lambda record: record.on_record(evaluated(1, user("ann")))),
        ("cohorts.json", lambda record: record.on_record(trained(1, user("ann")))),
        ("params/initial.npz", lambda record: record.on_initial({"w": np.ones(1)})),
    ],
)
def test_a_file_that_cannot_be_written_is_said_in_one_line(record, name, write):
    path = record.folder / name
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "in the way").touch()
    with pytest.raises(FLError, match=r" cannot be written: (Is a|File exists|Directory not)") as caught:
        write(record)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("result", ["auc", "loss", None])
def test_the_record_tells_how_users_differ_in_the_metric_that_is_the_result(tmp_path, result):
    record = RunRecord(tmp_path / "run", {}, result=result)
    record.on_record(evaluated(1, user("ann", loss=(6.0, 2.0), auc=(1.0, 2.0)), user("bob", loss=(1.0, 1.0))))
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    spread = {name: value for name, value in row.items() if "_user_" in name}
    mean = {"auc": "0.5", "loss": "2.0"}  # of users' own values: 0.5 alone; 3 and 1
    assert spread.get(f"{result}_user_mean") == mean.get(result)
    assert len(spread) == (0 if result is None else 6)
    assert (row["loss"], row["auc"]) == (repr(7 / 3), "0.5")


def test_an_npz_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "final.npz"
    write_npz(path, {"w": np.array([1.0])})

    def break_off(file, arrays, comment):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("simulator.npz.write_arrays", break_off)
    with pytest.raises(FLError, match=r"final.npz cannot be written: No space left on device"):
        write_npz(path, {"w": np.array([2.0])})
    assert read_npz(path, "--init")["w"].tolist() == [1.0]


SHAPES = [(), (0,), (3,), (2, 0, 4), (2, 3, 4)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool", "uint8"])
def test_arrays_are_written_as_numpy_writes_them(tmp_path, dtype):
    arrays = {
        f"a/{i}": np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape) for i, shape in enumerate(SHAPES)
    }
    arrays["turned"] = np.arange(6).astype(dtype).reshape(2, 3).T
    with (tmp_path / "ours.npz").open("wb") as file:
        write_arrays(file, arrays)
    np.savez(tmp_path / "numpys.npz", **arrays)
    with np.load(tmp_path / "ours.npz") as ours, np.load(tmp_path / "numpys.npz") as numpys:
        assert ours.files == numpys.files
        for name in arrays:
            assert ours[name].dtype == numpys[name].dtype
            assert ours[name].shape == numpys[name].shape
            assert ours[name].tobytes() == numpys[name].tobytes()


# -- reading -----------------------------------------------------------------------


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_never_read(tmp_path):
    sprung = tmp_path / "sprung"
    np.savez(tmp_path / "objects.npz", w=np.array([Trap(sprung)], object))
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Trap(sprung)))
    for name in ("objects.npz", "plain.npz"):
        with pytest.raises(FLError, match=rf"--init .*{name}: cannot be read as an NPZ file of arrays"):
            read_npz(tmp_path / name, "--init")
    assert not sprung.exists()


def broken_files(tmp_path):
    np.savez(tmp_path / "good.npz", w=np.arange(3000.0))
    good = (tmp_path / "good.npz").read_bytes()
    np.save(tmp_path / "single.npy", np.ones(3))
    bad_bytes = bytearray(good)
    bad_bytes[1000] ^= 255
    return {
        "nothing": b"",
        "text": b"hello",
        "a start alone": b"PK\x03\x04hello",
        "cut off": good[: len(good) // 2],
        "a changed byte": bytes(bad_bytes),
        "a single array": (tmp_path / "single.npy").read_bytes(),
    }


@pytest.mark.parametrize("what", ["nothing", "text", "a start alone", "cut off", "a changed byte", "a single array"])
def test_a_file_that_is_no_npz_is_said_in_one_line(tmp_path, what):
    path = tmp_path / "params.npz"
    path.write_bytes(broken_files(tmp_path)[what])
    with pytest.raises(FLError, match=r"^--init .*params.npz: cannot be read as an NPZ file of arrays: ") as caught:
        read_npz(path, "--init")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "reason"), [("none.npz", "No such file"), (".", "it is no regular file")])
def test_a_file_that_is_not_there_is_named(tmp_path, name, reason):
    with pytest.raises(FLError, match=rf"--init .*: cannot be read as an NPZ file of arrays: .*{reason}"):
        read_npz(tmp_path / name, "--init")
