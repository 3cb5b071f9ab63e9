"""Whole rounds in this process: one shard trains and tests users, the scheduler's own state moves what they share."""

import numpy as np

from protos.codec import to_bundle
from protos.gate import Keys
from protos.shared_arrays import SharedArrays, unnamed_file
from scheduler.rules.exact_sum import scale_exponent, sum_specs
from scheduler.rules.metrics import reduce_pairs
from scheduler.rules.samplers import Round
from scheduler.rules.server_optimizers import FedAvg
from scheduler.rules.step import Step
from scheduler.state.global_model import GlobalModel
from scheduler.state.rounds import Rules, Share
from simulator.shards import jobs
from simulator.users.store import UserRecord, UserStore
from simulator.worker.shard import Shard


class ShardRounds:
    """A run without processes.

    Args:
        folder: for the store of users.
        trainer: of the page.
        algorithm: an `Algorithm`.
        days: examples by day, split and uid.
        private: patterns, beside those of the algorithm.
    """

    def __init__(self, folder, trainer, algorithm, days, private=()):
        self.days, self.algorithm, self.trainer = days, algorithm, trainer
        store = UserStore(folder)
        for day, splits in days.items():
            for split, users in splits.items():
                store.put_examples(
                    UserRecord(uid, day, split, (0, i), to_bundle(examples).SerializeToString())
                    for i, (uid, examples) in enumerate(users.items())
                )
        store.close()
        rules = Rules(0, None, None, FedAvg(1.0), algorithm=algorithm)
        self.weighs = rules.weighs
        settings = jobs.ShardSettings(
            index=0, rank=0, seed=0, weighted=self.weighs, private=private, reader=None, trainer=trainer, store=folder,
            params_fd=unnamed_file("params"), sums_fd=unnamed_file("sums"), queue_fd=unnamed_file("queue"),
            algorithm=algorithm,
        )  # fmt: skip
        self.shard = Shard(settings)
        self.shard.run(jobs.Connect({0: "nowhere"}, Keys(0, {})))
        self.schema = self.shard.run(jobs.BuildModel())
        self._here = SharedArrays(settings.params_fd, self.schema.arrays, create=True)
        SharedArrays(settings.sums_fd, sum_specs(self.schema.arrays), create=True)
        self.shard.run(jobs.Attach(self.schema.arrays, write_initial=True))
        self.shard.run(jobs.StartPrivate({}, frozen_digest=self.schema.frozen_digest))
        self.model = GlobalModel(rules)
        self.model.set_initial(self._here.arrays, self.schema.private, self.schema.layers)
        self.step, self.rounds = 0, {}

    @property
    def params(self):
        """What all users share, copied."""
        return {name: value.copy() for name, value in self.model.need_params().items()}

    def start_of(self, uid):
        """The private parameters that a uid begins with."""
        return {name: value.copy() for name, value in self.shard._turns._start.of(uid).items()}

    def kept(self, uid):
        """What is kept of a uid; None if it has not trained."""
        return self.shard._client.get_param_by_uid(uid, self.step)

    def train(self, day, cohort):
        """A round; metrics by uid."""
        self.rounds[day] = self.rounds.get(day, 0) + 1
        users = self.days[day]["train"]
        at = Round(0, day, self.rounds[day], self.step)
        sizes = [len(users[uid]["y"]) for uid in cohort]
        weights = tuple(float(n) if self.weighs else 1.0 for n in sizes)
        share = Share(tuple(cohort), tuple(sizes), scale_exponent(weights), len(cohort), weights=weights)
        self.shard._queue.fill(len(cohort))
        results = self.shard.run(jobs.TrainShare(at, share)).results
        scalars = reduce_pairs([result.scalars for result in results])
        now = Step(0, day, self.rounds[day], self.step, len(cohort), len(users), scalars)
        self.model.move([self.shard._memory.sums], weights, now)
        for name, value in self.model.need_params().items():
            self._here.arrays[name][...] = value
        self.step += 1
        return {result.uid: result.metrics for result in results}

    def test(self, day, trained_on):
        """Metrics by uid of all that are tested on a day, as (mean)."""
        users = self.days[day]["test"]
        at = Round(0, day, self.rounds.get(trained_on, 0), self.step)
        share = Share(tuple(users), tuple(len(u["y"]) for u in users.values()), 0, len(users))
        self.shard._queue.fill(len(users))
        results = self.shard.run(jobs.EvaluateShare(at, share, trained_on)).results
        return {r.uid: {name: total / count for name, (total, count) in r.metrics.items()} for r in results}


def made_up(sizes, features=6, classes=3, seed=0, labels=lambda y: y):
    """uid -> examples, each user's a little apart; `sizes` by uid."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(features, classes))
    made = {}
    for number, (uid, size) in enumerate(sizes.items()):
        x = rng.normal(size=(size, features)) + 0.3 * number
        y = (x @ truth + rng.gumbel(size=(size, classes))).argmax(1)
        made[uid] = {"x": x.astype("float32"), "y": labels(y)}
    return made
