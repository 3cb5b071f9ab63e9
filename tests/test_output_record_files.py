"""simulator/output/record_files.py: what a checkpoint knows of a file is checked, and all beyond it is cut off."""

import csv
import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import TINY, assert_same_record, run
from tiny_task import make_data

from protos.errors import BadInput
from simulator.output.record_files import Cohorts, Table

pytestmark = pytest.mark.usefixtures("forks")

FIRST, LAST = ["uid"], ["seconds"]
HARD = ["a\rb", "a\nb", "a\r\nb", 'say "a, b"', " a ", "a\u2028b", "é", "e\u0301", "", "'", "a;b"]


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path / "t.csv")


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def filled(table, uids, **more):
    table.add(FIRST, list(more), LAST, [{"uid": uid, "seconds": "1.5", **more} for uid in uids])


def test_what_is_in_a_row_is_read_as_it_was(table):
    """A uid with a return in it made two rows of one."""
    filled(table, HARD)
    filled(table, HARD, loss="0.25")  # the column has all rows written anew
    assert [row["uid"] for row in rows(table.path)] == [*HARD, *HARD]


@given(st.data())
@settings(max_examples=40)
def test_a_file_goes_back_to_its_mark_or_says_that_it_cannot(tmp_path_factory, data):
    """Wherever a crash has cut it, or somebody has changed a byte: never a wrong row."""
    path = tmp_path_factory.mktemp("cut") / "t.csv"
    table = Table(path)
    uids = st.lists(st.sampled_from([*HARD, "ann", "bob"]), max_size=4)
    for name in data.draw(st.lists(st.sampled_from(["loss", "auc"]), max_size=2)):
        filled(table, data.draw(uids), **{name: "0.5"})
    at_mark, mark = path.read_bytes() if path.exists() else b"", json.loads(json.dumps(table.mark()))
    for name in data.draw(st.lists(st.sampled_from(["loss", "auc", "top1"]), max_size=3)):
        filled(table, data.draw(uids), **{name: "0.75"})
    # A crash cuts off what came after the mark, or adds half a row.
    if path.exists() and path.read_bytes().startswith(at_mark):
        raw = path.read_bytes()
        path.write_bytes(
            raw[: data.draw(st.integers(len(at_mark), len(raw)))] + data.draw(st.sampled_from([b"", b'"x']))
        )
    again = Table(path)
    again.check(mark)
    again.cut(mark)
    assert (path.read_bytes() if path.exists() else b"") == at_mark
    filled(again, ["next"])
    assert [row["uid"] for row in rows(path)][-1] == "next"
    if not at_mark:
        return
    whole = path.read_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut"]))
    place = data.draw(st.integers(0, len(at_mark) - 1))
    path.write_bytes(whole[:place] if kind == "cut" else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    again = Table(path)
    try:
        again.cut(mark)
    except BadInput:
        return
    assert path.read_bytes() == at_mark  # a name of a column was mended


def test_cohorts_are_cut_at_the_mark_whatever_comes_after_it(tmp_path):
    cohorts = Cohorts(tmp_path / "cohorts.json")
    cohorts.begin()
    none = cohorts.mark()
    cohorts.add(["ann", "bö]b"])
    one, whole = cohorts.mark(), cohorts.path.read_bytes()
    cohorts.add(["cid"])
    for torn in (cohorts.path.read_bytes(), whole[:-1] + b',\n["ci', whole[:-1], whole):
        cohorts.path.write_bytes(torn)
        again = Cohorts(cohorts.path)
        again.cut(one)
        assert cohorts.path.read_bytes() == whole
        again.add(["dan"])
        assert json.loads(cohorts.path.read_text()) == [["ann", "bö]b"], ["dan"]]
    for torn in (whole[:-2], whole.replace(b"ann", b"ada"), b""):
        cohorts.path.write_bytes(torn)
        with pytest.raises(BadInput, match=r"cohorts.json does not hold what its checkpoint knows"):
            Cohorts(cohorts.path).cut(one)
    cohorts.path.write_bytes(whole)
    Cohorts(cohorts.path).cut(none)
    assert cohorts.path.read_bytes() == b"[]"


# -- the real program --------------------------------------------------------------

SHORT = ["--rounds", 4, "--sample-num", 4, "--shards", 1, "--eval-every", 1, "--checkpoint-every", 3]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    data = make_data(tmp_path_factory.mktemp("data"))
    output = tmp_path_factory.mktemp("run") / "reference"
    run(TINY, data, *SHORT, "--output", output)
    return output


@pytest.fixture
def crashed(reference, tmp_path):
    """The record of a run that was killed before its second checkpoint: the first is that of round 3."""
    shutil.copytree(reference, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-00000004.ckpt").unlink()
    (tmp_path / "run" / "params" / "final.npz").unlink()
    return tmp_path / "run"


@pytest.mark.slow
def test_rows_that_a_crash_has_cut_are_cut_off(reference, crashed):
    """Each file ends in the middle of what was written last."""
    for name in ("metrics.csv", "per_user.csv", "cohorts.json"):
        raw = (crashed / name).read_bytes()
        (crashed / name).write_bytes(raw[:-7])
    run(TINY, "--resume", crashed)
    assert_same_record(crashed, reference)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.csv", "per_user.csv", "cohorts.json"])
def test_a_row_that_is_cut_before_the_checkpoint_is_an_error(crashed, name):
    """The first row loses its end, and all counts of rows stay as they are."""
    raw = (crashed / name).read_bytes()
    ends = [i for i, byte in enumerate(raw) if byte == ord("\n")]
    (crashed / name).write_bytes(raw[: ends[1] - 4] + raw[ends[1] :])
    before = {path: path.read_bytes() for path in crashed.rglob("*") if path.is_file() and path.name != ".lock"}
    done = run(TINY, "--resume", crashed, check=False)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert line == (
        f"error: {crashed / name} does not hold what its checkpoint knows of it: it is cut off or was changed; put "
        "back a copy of it, or start the run again without --resume"
    )
    assert {path: path.read_bytes() for path in before} == before
