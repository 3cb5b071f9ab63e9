"""Tables of experiments: what they say can be run, and what is written of it."""

import os
import subprocess
import sys

import pytest
import table_runs
from running import ROOT
from table import Row, Table, TableError, load, markdown
from table_runs import Runs

# In a process of its own: the page registers an algorithm.
CHECK = """
import digits, layers
from table import HERE, load
kinds = {"experiments/layers.py": layers.LayersSettings, "examples/digits.py": digits.DigitsSettings}
for path in sorted((HERE / "tables").glob("*.yaml")):
    table = load(path.stem)
    for row in table.rows:
        assert row.data or table.data
        settings = kinds[table.page](data="tests", **{**table.settings, **row.settings})
        settings.make_algorithm(), settings.make_local_optimizer()
    assert len({row.name for row in table.rows}) == len(table.rows)
    print(table.name)
"""


def test_the_settings_of_tables_are_those_of_their_page():
    path = os.pathsep.join([str(ROOT), str(ROOT / "experiments"), str(ROOT / "examples")])
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "fedprox_synthetic", "flute_mnist", "niid_bench_mnist", "pfl_mnist_small", "pfllib_fashion",
    ]  # fmt: skip


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(TableError, match="there is no table 'nothing'; there are fedprox_synthetic, flute_mnist, "):
        load("nothing")


def test_a_source_that_is_not_given_is_named(tmp_path):
    with pytest.raises(TableError, match=r"needs --source mnist=FOLDER: MNIST's four IDX files"):
        Runs(load("flute_mnist"), tmp_path, {})


def test_mean_and_deviation_stand_beside_what_is_published():
    rows = [Row("one", published=0.5), Row("other")]
    table = Table("t", "A title", "page.py", "", "a source", rows)
    assert markdown(table, [(rows[0], [0.4, 0.6]), (rows[1], [0.25])], 7).splitlines() == [
        "**A title.** 2 seeds; a source. Shorter than it should be: 7 rounds.",
        "",
        "| | ours | deviation | published |",
        "| --- | --- | --- | --- |",
        "| one | 0.5000 | 0.1414 | 0.5 |",
        "| other | 0.2500 |  |  |",
    ]


PAGE = """
import pathlib, sys
assert sys.argv[2:5] == ["--lr=0.5", "--no-sigmoid", "--seed=3"], sys.argv
data, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[-2].split("=")[1])
out.mkdir(parents=True)
(data / "runs").write_text(str(int((data / "runs").read_text()) + 1))
(out / "metrics.csv").write_text("phase,top1\\ntest,0.9\\ntrain,7\\ntest,0.5\\ntest,0.25\\n")
"""


MAKE = """
import pathlib, sys
out = pathlib.Path(sys.argv[1])
out.mkdir()
(out / "runs").write_text("0")
"""


def test_a_run_is_made_once_and_the_last_tests_are_its_figure(tmp_path, monkeypatch):
    (tmp_path / "page.py").write_text(PAGE)
    (tmp_path / "make.py").write_text(MAKE)
    monkeypatch.setattr(table_runs, "ROOT", tmp_path)
    table = Table("t", "", "page.py", "python make.py {out}", "", [], {"lr": 0.5, "sigmoid": False}, tests=2)
    runs = Runs(table, tmp_path / "out", {})
    assert runs.figure(Row("a row"), 3) == 0.375
    assert runs.figure(Row("the same of another name"), 3) == 0.375
    assert [path.read_text() for path in (tmp_path / "out").glob("data-*/runs")] == ["1"]
    with pytest.raises(TableError, match=r"has no test with the metric 'top5'"):
        runs.figure(Row("a row", metric="top5"), 3)
    with pytest.raises(TableError, match=r"(?s)a row, seed 4: .* ends with status 1:.*AssertionError"):
        runs.figure(Row("a row"), 4)


@pytest.mark.slow
def test_a_row_of_a_table_runs(tmp_path):
    table = load("fedprox_synthetic")
    runs = Runs(table, tmp_path, {}, rounds=1, shards=1)
    assert 0 < runs.figure(table.rows[0], 0) < 1
