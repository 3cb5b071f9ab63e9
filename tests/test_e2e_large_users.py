"""Users larger than a message: on any ranks, and after a checkpoint, they come to the bits of one rank."""

import shutil

import pytest
from large_task import make_data
from running import ROOT, assert_same_record, params, private, run

from simulator.users.data_client import owner_of

LARGE = ROOT / "tests" / "large_task.py"
ARGUMENTS = ["--rounds", 2, "--sample-num", 3, "--lr", 0.3, "--batch-size", 10_000, "--checkpoint-every", 1]
pytestmark = pytest.mark.slow


def test_users_of_more_than_64_mib_come_to_the_same_on_three_ranks_and_from_a_checkpoint(tmp_path):
    """Both simulators own users; files are read and users trained wherever there is time."""
    assert {owner_of(uid, (1, 2)) for uid in ("large", "other-large", "small")} == {1, 2}
    data, alone, three = make_data(tmp_path / "data"), tmp_path / "alone", tmp_path / "three"
    run(LARGE, data, *ARGUMENTS, "--shards", 1, "--output", alone, timeout=300)
    assert sum(array.nbytes for array in private(alone)["large"].values()) == 70_000_000
    assert params(alone)["common"] != 0
    run(LARGE, data, *ARGUMENTS, "--shards", 1, "--output", three, ranks=3, timeout=300)
    assert_same_record(three, alone)
    (three / "checkpoints" / "step-00000002.ckpt").unlink()
    (three / "params" / "final.npz").unlink()
    shutil.rmtree(three / "params" / "private")
    done = run(LARGE, "--resume", three, "--shards", 1, ranks=3, timeout=300)
    assert "resumed after round 1 of the run" in done.stdout + done.stderr
    assert_same_record(three, alone)
