"""A real scheduler server and its clients in one process, for tests: every wait has an end."""

import threading
from concurrent.futures import Future

from doors import GATE, Socket, keys

from scheduler.rules.samplers import AllTestSampler, FixedSampler
from scheduler.rules.server_optimizers import FedAvg
from scheduler.service.client import SchedulerClient
from scheduler.service.coordinator import Coordinator
from scheduler.service.messages import SimulatorInfo
from scheduler.service.server import start_scheduler_server
from scheduler.state.plan import DayPlan, Plan
from scheduler.state.rounds import Rules

WAIT = 20.0
# Of a run with nothing to do.
NOTHING = Plan((), 0)


def background(call, *args):
    """Starts a call in a thread of its own, which a test that fails does not wait for."""
    future = Future()

    def run():
        try:
            future.set_result(call(*args))
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def soon(call, *args):
    """The result of a call that must not hang."""
    return background(call, *args).result(WAIT)


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self):
        self.layouts, self.initial, self.records = [], [], []
        self.on_layout = self.layouts.append
        self.on_initial = lambda params, frozen: self.initial.append(params)
        self._more = threading.Condition()

    def on_record(self, record):
        with self._more:
            self.records.append(record)
            self._more.notify_all()

    def offers(self):
        return []

    def told(self, count):
        """The records, once there are so many: they come in a thread of their own."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.records) >= count, WAIT)
            return list(self.records)


def weights_of(counts, split="train"):
    """As a trainer's default: the number of examples, of training data only."""
    return {uid: float(count) for uid, count in counts.items()} if split == "train" else {}


def tell(client, counts, date, split="train"):
    """A simulator tells the users it has read."""
    return client.update_user_inst_num(date, split, counts, weights_of(counts, split))


def info(rank):
    return SimulatorInfo(rank, f"host{rank}", f"127.0.0.1:{5000 + rank}", 1, ("20200101", f"2020010{rank + 1}"))


class Run:
    """The scheduler of a run with simulators 1 and 2.

    Args:
        plan: cohorts of its one day.
        federated: as in the rules.
        heard: the listener.
        tests: after which rounds there are some, beside the last if there are any.
        more: goes to the coordinator.
    """

    def __init__(self, plan, *, federated=True, heard=None, tests=(), **more):
        self.heard = heard or Heard()
        rules = Rules(7, FixedSampler(plan), AllTestSampler(), FedAvg(2.0), federated, rounds=len(plan))
        day = DayPlan("20200101", "20200102" if tests else None)
        self.plan = Plan((day,), len(plan), asked=frozenset(tests))
        self.coordinator = Coordinator(rules, [1, 2], self.heard, lambda days: self.plan, **more)
        self._socket = Socket()
        self.server, self.address = start_scheduler_server(self.coordinator, self._socket.address, 2, GATE)
        self.clients = [SchedulerClient(self.address, keys(rank)) for rank in (1, 2)]

    @property
    def changed(self):
        """What is notified when anything in the run changes."""
        return self.coordinator._run._changed

    def both(self, call):
        """`call(client, rank)` for both simulators at once; their results."""
        futures = [background(call, client, rank) for rank, client in enumerate(self.clients, start=1)]
        return [future.result(WAIT) for future in futures]

    def join(self):
        return self.both(lambda client, rank: client.register(info(rank)))

    def make_ready(self, params, private, counts, date):
        """All joined, parameters set, users of the day told."""
        self.join()
        soon(self.clients[0].update_global_params, params, private)
        self.tell_users(counts, date, "train")
        return self

    def tell_users(self, counts, date, split):
        """Each simulator has read every second user."""
        half = dict(list(counts.items())[::2])
        rest = {uid: count for uid, count in counts.items() if uid not in half}
        weighed = split if self.coordinator.rules.weighs else "test"

        def tell_half(client, rank):
            counts = half if rank == 1 else rest
            client.update_user_inst_num(date, split, counts, weights_of(counts, weighed))

        self.both(tell_half)

    def close(self):
        self.coordinator.fail("the test is over")  # whoever still waits
        for client in self.clients:
            client.close()
        assert self.server.stop(0).wait(WAIT)
        self._socket.close()
