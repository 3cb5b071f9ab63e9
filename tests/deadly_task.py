"""The tiny task, in shards that kill themselves at moments named beforehand.

A moment is a folder of orders: each file in it is one death, so that the shard that comes
after lives on.  What an order holds are orders for what comes next: lines of moments.
"""

import os
import signal
import sys
from pathlib import Path

import tiny_task

ORDERS = "DEADLY_ORDERS"


def order(folder, moment, deaths=1, then=()):
    """Has shards die, or wait, at a moment so many times; each then gives the orders of `then`."""
    place = Path(folder) / moment
    place.mkdir(parents=True, exist_ok=True)
    for _ in range(deaths):
        (place / f"{len(list(place.iterdir()))}").write_text("\n".join(then))


def at(moment):
    """Dies if there is an order for this moment; waits if the order says so."""
    folder = Path(os.environ[ORDERS])
    place = folder / moment
    for path in sorted(place.iterdir()) if place.is_dir() else []:
        lines = path.read_text().splitlines()
        try:
            path.unlink()
        except FileNotFoundError:
            continue  # another shard was faster
        if lines[:1] == ["wait"]:
            print("waiting", flush=True)
            with (folder / "go").open("rb") as fifo:
                fifo.read(1)  # returns when the test has written to it
            return
        for line in lines:
            order(folder, line)
        os.kill(os.getpid(), signal.SIGKILL)


class DeadlyReader(tiny_task.TinyReader):
    """Dies when it has read half of a file."""

    def read(self, path):
        for number, user in enumerate(super().read(path)):
            if number == 2:
                at(f"read {path.parent.name} {path.name}")
            yield user


class DeadlyTrainer(tiny_task.TinyTrainer):
    """Dies wherever a shard can be."""

    def make_model(self):
        at("build")
        set_traps()
        return super().make_model()

    def train_user(self, model, examples, user):
        metrics = super().train_user(model, examples, user)
        at(f"train {user.date} {user.round} {user.uid}")
        return metrics

    def evaluate_user(self, model, examples, user):
        at(f"evaluate {user.date} {user.uid}")
        return super().evaluate_user(model, examples, user)


def set_traps():
    """Moments within the core, as they come only between two lines of it."""
    from scheduler.rules.exact_sum import ExactSum
    from simulator.shards import jobs, work_queue
    from simulator.users.data_client import DataClient
    from simulator.worker.shard import Shard
    from simulator.worker.user_turns import UserTurns

    if getattr(DataClient, "trapped", False):
        return
    DataClient.trapped = True
    store, add, take, room = DataClient.set_param_by_uid, ExactSum.take, work_queue.WorkQueue.take, jobs.result_room

    def stored(self, uid, step, params):
        store(self, uid, step, params)
        at(f"stored {step} {uid}")

    def added(self, name, new, old, weight, uid, rows=None):
        add(self, name, new, old, weight, uid, rows)
        at(f"added {name} {uid}")

    def took(self, shard):
        job = take(self, shard)
        at("took nothing" if job is None else f"took {job}")
        return job

    class Room(dict):
        def items(self):
            for number, item in enumerate(super().items()):
                if number == 1:
                    at("result")
                yield item

    DataClient.set_param_by_uid, ExactSum.take, work_queue.WorkQueue.take = stored, added, took
    ready, keep = Shard.get_ready, UserTurns.keep

    def got_ready(self, ahead, due):
        at(f"took word of {ahead.job.at.step}")
        ready(self, ahead, due)
        at(f"took users of {ahead.job.at.step}")

    def kept(self, user):
        keep(self, user)
        at(f"kept {user.at.date} {user.at.round} {user.uid}")

    Shard.get_ready, UserTurns.keep = got_ready, kept
    jobs.result_room = lambda sums, shared: Room(room(sums, shared))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    tiny_task.TinyReader, tiny_task.TinyTrainer = DeadlyReader, DeadlyTrainer
    tiny_task.main()
