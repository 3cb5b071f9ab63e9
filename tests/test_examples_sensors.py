"""examples/sensors.py: windows of takes, which takes are the test, and what is no such file."""

import gzip
import sys

import numpy as np
import pytest
from running import ROOT

from reader import DataError

sys.path.insert(0, str(ROOT / "examples"))

import sensors

HEAD = "execution,x_acc,y_acc,z_acc,x_gyro,y_gyro,z_gyro,timestamp,label"


def write(folder, rows, head=HEAD):
    path = folder / "s07.csv.gz"
    path.write_bytes(gzip.compress("\n".join([head, *rows]).encode()))
    return path


def take(number, labels, first=0.0):
    return [f"{number},{first + k},0,0,1,2,3,{k},{label}" for k, label in enumerate(labels)]


def test_windows_are_cut_from_each_take_and_the_last_takes_are_the_test(tmp_path):
    """Takes of 5, 4 and 2 measurements, windows of 4 that begin 1 apart: 2, 1 and 0; the last of three is the test."""
    walk = ["WALKING"] * 3
    rows = [*take("10", walk[:2] * 2, 98.1), *take("01", [*walk, "TURNING", "TURNING"]), *take("02", ["SEATED"] * 4)]
    path = write(tmp_path, rows)
    reader = sensors.SensorReader(window=4, step=1)
    assert reader.files(tmp_path, "train") == reader.files(tmp_path, "test") == [path]
    ((uid, train),) = reader.read_split(path, "train")
    ((_, test),) = reader.read_split(path, "test")
    assert uid == "s07"
    assert train["x"].shape == (3, 6, 4)
    assert [train["x"].dtype, train["y"].dtype] == ["float32", "int64"]
    # Two of each: the first in the list of activities.
    assert train["y"].tolist() == [sensors.ACTIVITIES.index(name) for name in ("WALKING", "WALKING", "SEATED")]
    np.testing.assert_allclose(train["x"][1][0], np.arange(1, 5) / 9.81, rtol=1e-6)
    np.testing.assert_allclose(train["x"][1][3:, 0], [1, 2, 3])
    np.testing.assert_allclose(test["x"][0][0], 10 + np.arange(4) / 9.81, rtol=1e-6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (take("01", ["WALKING"] * 4), r"s07.csv.gz: 1 take \(column execution\)"),
        ([*take("01", ["RUNNING"]), *take("02", ["WALKING"])], r"line 2: columns .*'RUNNING'"),
        ([*take("01", ["WALKING"]), "02,x,0,0,0,0,0,0,WALKING"], "line 3: columns .*could not convert"),
        ([*take("01", ["WALKING"] * 9), "02,nan,0,0,0,0,0,0,WALKING"], "execution 02: a measurement is NaN"),
        ([*take("01", ["WALKING"] * 3), *take("02", ["WALKING"] * 9)], "train: no take has 4 measurements"),
    ],
)
def test_what_cannot_be_right_is_named(tmp_path, rows, message):
    path = write(tmp_path, rows)
    with pytest.raises(DataError, match=message):
        list(sensors.SensorReader(window=4, step=1).read_split(path, "train"))


def test_a_damaged_file_and_other_columns_are_named(tmp_path):
    path = write(tmp_path, take("01", ["WALKING"]), HEAD.replace("x_gyro", "gyro"))
    with pytest.raises(DataError, match=r"line 2: columns execution.*x_gyro"):
        list(sensors.SensorReader(4, 1).read(path))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        list(sensors.SensorReader(4, 1).read(path))


def test_norms_and_the_head_are_found_by_the_patterns_of_the_docs():
    from sensors_model import make

    from simulator.worker.model_state import ModelState

    assert set(ModelState(make(6, 5), ("layers.4.*",)).private) == {"layers.4.weight", "layers.4.bias"}
    norms = ModelState(make(6, 5), ("*norm*",)).private
    assert {name.rpartition(".")[0] for name in norms} == {"layers.0.norm", "layers.2.norm"}
    assert {name.rpartition(".")[2] for name in norms} == {"weight", "bias", "_mean", "_variance"}
