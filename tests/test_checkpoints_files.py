"""simulator/checkpoints/files.py and scheduler/state/checkpoints.py: whole or not at all, and when."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import BadInput, FLError
from scheduler.state.checkpoints import Offer, Schedule, Segment, Snapshot, copy_into
from simulator.checkpoints.files import (
    KEPT,
    Checkpoint,
    CheckpointFolder,
    choose,
    has_segment,
    open_sealed,
    read_segment,
    write_sealed,
    write_segment,
)


def checkpoint(step, segments=()):
    params = {"a.w": np.arange(6, dtype=np.float32).reshape(2, 3) * step, "b/odd": np.float64([step])}
    optimizer = {"a.w/momentum": np.arange(6.0)}
    snapshot = Snapshot(step, "20200101", params, optimizer, ("mine",))
    return Checkpoint(snapshot, {"metrics.csv": step}, {"--seed": 7}, tuple(segments))


def test_what_is_written_is_read(tmp_path):
    folder = CheckpointFolder(tmp_path / "new" / "checkpoints")
    one = checkpoint(3, [Segment("step-3-rank1.private", 10, b"\x01\xff")])
    folder.write(one)
    (back,) = folder.read_all()
    assert (back.marks, back.meaning, back.segments) == (one.marks, one.meaning, one.segments)
    assert (back.snapshot.step, back.snapshot.date, back.snapshot.private) == (3, "20200101", ("mine",))
    for kind in ("params", "optimizer"):
        mine, theirs = getattr(one.snapshot, kind), getattr(back.snapshot, kind)
        assert {k: (v.dtype, v.shape, v.tobytes()) for k, v in mine.items()} == {
            k: (v.dtype, v.shape, v.tobytes()) for k, v in theirs.items()
        }


def test_the_last_few_are_kept_newest_first(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for step in (5, 100, 10, 99999999, 100000000):
        folder.write(checkpoint(step))
    assert [c.snapshot.step for c in folder.read_all()] == [100000000, 99999999, 100][:KEPT]
    folder.forget_after(100)
    assert [c.snapshot.step for c in folder.read_all()] == [100]


def test_no_folder_holds_no_checkpoint(tmp_path):
    assert CheckpointFolder(tmp_path / "none").read_all() == []


@given(st.data())
def test_no_damage_goes_unnoticed(tmp_path_factory, data):
    """Any byte changed, anything cut off or added."""
    path = tmp_path_factory.mktemp("sealed") / "file"
    content = data.draw(st.binary(max_size=200))
    write_sealed(path, lambda file: file.write(content))
    with open_sealed(path) as file:
        assert file.read() == content
    raw = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "add"]))
    if kind == "flip":
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        raw += data.draw(st.binary(min_size=1, max_size=20))
    path.write_bytes(raw)
    with pytest.raises(BadInput, match="file is damaged"):
        open_sealed(path)


def test_a_checkpoint_of_a_later_version_is_left_out(tmp_path, monkeypatch, caplog):
    folder = CheckpointFolder(tmp_path)
    monkeypatch.setattr("simulator.checkpoints.files.VERSION", 3)
    folder.write(checkpoint(1))
    monkeypatch.undo()
    assert folder.read_all() == []
    assert "has version 3, this program reads 2; it is left out" in caplog.text


def test_nothing_is_left_of_what_could_not_be_written(tmp_path):
    def fails(file):
        file.write(b"half")
        raise OSError(28, os.strerror(28))

    with pytest.raises(FLError, match=r"x\.ckpt cannot be written: No space left on device; free space, or switch"):
        write_sealed(tmp_path / "x.ckpt", fails)
    assert list(tmp_path.iterdir()) == []


RECORDS = st.lists(st.tuples(st.text(min_size=1, max_size=9), st.integers(0, 2**63), st.binary(max_size=30)))


@given(RECORDS)
def test_segments_hold_their_records(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("segment") / "s.private"
    segment = write_segment(path, records)
    assert (segment.name, segment.size) == ("s.private", path.stat().st_size)
    assert list(read_segment(path)) == records
    assert has_segment(path.parent, segment)
    assert not has_segment(path.parent, Segment("other", segment.size, segment.digest))
    assert not has_segment(path.parent, Segment(segment.name, segment.size, b"other"))


def offer(step, *names):
    return Offer(step, "20200101", tuple(Segment(name, 1, b"") for name in names))


def test_the_newest_checkpoint_with_all_its_files_is_chosen(tmp_path, caplog):
    """Step 30 lacks c, which nobody has whole; of 20, rank 1 reads a and rank 2 reads b."""
    offers = [offer(30, "a", "c"), offer(20, "a", "b"), offer(10)]
    chosen, readers = choose(offers, {1: {"a"}, 2: {"a", "b"}}, tmp_path)
    assert (chosen.step, readers) == (20, {"a": 1, "b": 2})
    assert f"after 30 rounds is left out: {tmp_path / 'c'} is missing or damaged" in caplog.text
    assert choose(offers, {1: set()}, tmp_path)[0].step == 10
    with pytest.raises(BadInput, match="no whole checkpoint in"):
        choose(offers[:2], {1: set()}, tmp_path)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_checkpoint_is_due_every_so_many_rounds():
    schedule = Schedule(3, Clock())
    assert [step for step in range(1, 10) if schedule.due(step)] == [3, 6, 9]
    assert not any(Schedule(0, Clock()).due(step) for step in range(1, 10))


def test_a_checkpoint_is_due_by_time_and_never_costs_much():
    """Once a minute; one that took 4 s is followed by 200 s of peace."""
    clock = Clock()
    schedule = Schedule(None, clock)
    clock.now = 59.0
    assert not schedule.due(1)
    clock.now = 60.0
    assert schedule.due(2)
    clock.now = 64.0
    schedule.finished()
    clock.now = 263.0
    assert not schedule.due(3)
    clock.now = 264.0
    assert schedule.due(4)
    clock.now = 264.5
    schedule.finished()
    clock.now = 324.5
    assert schedule.due(5)


def test_a_copy_takes_the_memory_that_is_there():
    old = {"w": np.array([1.0, 2.0]), "shape": np.zeros(2), "gone": np.zeros(1)}
    kept = old["w"]
    new = {"w": np.array([3.0, 4.0]), "shape": np.ones(3), "more": np.array(7)}
    copy_into(old, new)
    assert {name: value.tolist() for name, value in old.items()} == {"w": [3, 4], "shape": [1, 1, 1], "more": 7}
    assert old["w"] is kept
    new["shape"][0] = new["more"][...] = 9
    assert old["shape"].tolist() == [1, 1, 1]
    assert old["more"] == 7
