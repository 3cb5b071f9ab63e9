"""A shard in this process, with the tiny task's users of different sizes."""

import numpy as np
from tiny_task import CLASSES, FEATURES

from protos.codec import to_bundle
from protos.gate import Keys
from protos.shared_arrays import SharedArrays, unnamed_file
from scheduler.rules.exact_sum import sum_specs
from scheduler.rules.samplers import Round
from scheduler.state.rounds import Share
from simulator.shards import jobs
from simulator.users.store import UserRecord, UserStore
from simulator.worker.shard import Shard

DAY = "20200101"
SIZES = {"a": 3, "b": 12, "c": 4, "d": 9, "e": 6, "f": 8}


class OneShard:
    """What it does of a share, by uid."""

    def __init__(self, folder, trainer, private=(), **settings):
        self.store = UserStore(folder)
        rng = np.random.default_rng(0)
        for uid, size in SIZES.items():
            examples = {
                "x": rng.normal(size=(size, FEATURES)).astype("float32"),
                "y": rng.integers(0, CLASSES, size),
            }
            payload = to_bundle(examples).SerializeToString()
            self.store.put_examples(UserRecord(uid, DAY, split, (0, 0), payload) for split in ("train", "test"))
        self.store.close()
        settings = jobs.ShardSettings(
            index=0, rank=0, seed=0, weighted=True, private=private, reader=None, trainer=trainer, store=folder,
            params_fd=unnamed_file("params"), sums_fd=unnamed_file("sums"), queue_fd=unnamed_file("queue"), **settings,
        )  # fmt: skip
        self.shard = Shard(settings)
        self.shard.run(jobs.Connect({0: "nowhere"}, Keys(0, {})))
        self.schema = self.shard.run(jobs.BuildModel())
        arrays = {**self.schema.shared, **self.schema.groups}
        SharedArrays(settings.params_fd, arrays, create=True)
        SharedArrays(settings.sums_fd, sum_specs(arrays), create=True)
        self.shard.run(jobs.Attach(arrays, write_initial=True))
        self.shard.run(jobs.StartPrivate({}, frozen_digest=self.schema.frozen_digest))
        self.step = 0

    def do(self, kind, uids, groups=()):
        """Has the shard train or test users in this order; metrics by uid and the exact sums."""
        at = Round(0, DAY, self.step + 1, self.step)
        sizes = [SIZES[uid] for uid in uids]
        weights = tuple(map(float, sizes))
        share = Share(tuple(uids), tuple(sizes), 6, len(SIZES), weights=weights, groups=tuple(groups))
        self.shard._queue.fill(len(groups) or len(uids))
        result = self.shard.run(kind(at, share, *([DAY] if kind is jobs.EvaluateShare else [])))
        names = self.shard._model.shared if kind is jobs.TrainShare else ()
        sums = {name: self.shard._memory.sums.settle(name).copy() for name in names}
        return {r.uid: r.metrics for r in result.results}, sums

    def test(self, uids, groups=()):
        """Metrics by uid."""
        return self.do(jobs.EvaluateShare, uids, groups)[0]

    def private_of(self, uid):
        found = self.shard._client.get_param_by_uid(uid, self.step + 1)
        return {name: value.tobytes() for name, value in (found or {}).items()}
