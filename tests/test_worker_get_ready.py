"""simulator/worker/fetched_examples.py: what a shard fetches before a round is of that round, or not used."""

import numpy as np
import pytest
from doors import keys

from protos.codec import to_bundle
from protos.shared_arrays import unnamed_file
from scheduler.rules.samplers import Round
from scheduler.state.rounds import Share
from simulator.shards import jobs
from simulator.users.store import UserRecord, UserStore
from simulator.worker.shard import Shard

DAY, NEXT = "20200101", "20200102"
UIDS = ("a", "b", "c", "d")


@pytest.fixture
def shard(tmp_path):
    """Shard 1 of two, with four users on two days whose examples tell the day."""
    store = UserStore(tmp_path)
    store.put_examples(
        UserRecord(uid, day, "train", (0, place), to_bundle({"x": np.array([int(day)])}).SerializeToString())
        for day in (DAY, NEXT)
        for place, uid in enumerate(UIDS)
    )
    settings = jobs.ShardSettings(
        index=1, rank=0, seed=0, weighted=True, private=None, reader=None, trainer=None,
        store=tmp_path, params_fd=-1, sums_fd=-1, queue_fd=unnamed_file("queue"),
    )  # fmt: skip
    store.close()
    made = Shard(settings)
    made.run(jobs.Connect({0: "nowhere"}, keys(0)))
    return made


def ahead(*uids):
    return jobs.Ahead(jobs.TrainShare(Round(0, DAY, 2, 1), Share(uids, (1,) * len(uids))), lanes=2)


def fetched(shard):
    return sorted(uid for _, uid in shard._fetched.ahead)


def test_its_own_users_are_fetched_until_the_round_is_due(shard):
    shard.get_ready(ahead(*UIDS), lambda: False)
    assert fetched(shard) == ["b", "d"]
    looks = iter([False, True])
    shard.get_ready(ahead(*UIDS), lambda: next(looks))
    assert fetched(shard) == ["b"]
    shard.get_ready(ahead(*UIDS), lambda: True)
    assert fetched(shard) == []


def test_examples_of_another_day_are_not_taken_for_those_of_this(shard):
    shard.get_ready(ahead(*UIDS), lambda: False)
    assert shard._examples.take("b", NEXT, "train")["x"] == [int(NEXT)]
    assert shard._examples.take("b", DAY, "train")["x"] == [int(DAY)]
    assert shard._examples.take("d", DAY, "train")["x"] == [int(DAY)]
    assert fetched(shard) == []


def test_a_user_that_cannot_be_fetched_is_named_in_its_turn(shard):
    shard.get_ready(ahead("a", "nobody"), lambda: False)
    assert fetched(shard) == []
