"""Tests that are asked for while the run goes: where they are decided, who is told, and what is kept of it."""

from queue import Queue

import numpy as np
import pytest
from scheduler_run import WAIT, Run, soon
from test_state_round_state import COUNTS, DAY, NEXT, NO_TIME, PLAN, at, grid, result
from test_state_stopping import SEGMENT, Saves

from protos.errors import WrongState
from scheduler.state.checkpoints import Schedule, Snapshot
from scheduler.state.plan import Clear, DayPlan, End, Evaluate, Load, Plan, Train
from scheduler.state.rounds import RoundEnd, Rules, Share, Timings
from simulator.checkpoints.files import Checkpoint, CheckpointFolder
from simulator.running.day_player import DayPlayer
from simulator.shards.jobs import ShareResult

FLEXIBLE = Plan((DayPlan(DAY, NEXT),), 2, flexible=True)


@pytest.fixture
def run():
    made = Run(PLAN, heard=Saves(), schedule=Schedule(1))
    made.plan = FLEXIBLE
    yield made.make_ready({"w": np.array([1.0, 2.0], np.float32)}, ["mine"], COUNTS, DAY)
    made.close()


def play_first(run):
    """The first round; the ends that both are told."""
    run.both(lambda client, _: client.sample_user_list(at()))
    pushes = {1: ("a", (4, 0)), 2: ("bc", (-2, 6))}

    def push(client, rank):
        uids, sums = pushes[rank]
        return client.fedavg_update(at(), [result(uid) for uid in uids], lambda: NO_TIME, grid(*sums))

    return run.both(push)


def ask_at_the_end(run, after):
    """As a callback that decides with the lock held, before or after the record has been taken."""
    take = run.coordinator._notifier.add

    def add(record, state):
        if not after:
            run.coordinator.ask_test()
        take(record, state)
        if after:
            run.coordinator.ask_test()

    run.coordinator._notifier.add = add


@pytest.mark.parametrize("after", [False, True])
def test_all_are_told_of_a_test_with_the_end_of_the_round_and_the_checkpoint_holds_it(run, after):
    one, two = run.clients
    snapshots = Queue()
    run.heard.on_checkpoint = lambda snapshot, marks, segments: snapshots.put(snapshot)
    before = [Load(DAY, "train"), Load(NEXT, "test"), Train(DAY, 1, 0, 2, ahead=False), Evaluate(NEXT, 2, DAY)]
    assert soon(one.next_stages, 0)[:4] == before
    ask_at_the_end(run, after)
    assert play_first(run) == [RoundEnd(checkpoint=True, replanned=True)] * 2
    for client in (one, two):
        assert soon(client.next_stages, 1) == [
            Evaluate(NEXT, 1, DAY), Train(DAY, 2, 1, 1, ahead=False), Evaluate(NEXT, 2, DAY), Clear(DAY, "train"),
            Clear(NEXT, "test"), End(),
        ]  # fmt: skip
        soon(client.report_segments, 1, [SEGMENT])
    snapshot = snapshots.get(timeout=WAIT)
    assert (snapshot.step, snapshot.tests) == (1, True)


def test_it_is_too_late_when_a_simulator_has_gone_on(run):
    assert play_first(run) == [RoundEnd(checkpoint=True)] * 2
    with pytest.raises(WrongState, match="a test after 1 rounds was asked for too late: simulators have gone on"):
        run.coordinator.ask_test()


def test_nobody_asks_in_a_run_whose_plan_is_fixed(run):
    run.coordinator._live.state.plan = Plan((DayPlan(DAY, NEXT),), 2)
    with pytest.raises(WrongState, match="a run whose plan is fixed"):
        run.coordinator.ask_test()


def test_a_run_that_goes_on_holds_the_test_that_was_asked_for(tmp_path):
    params = {"w": np.zeros(2, np.float32)}
    for step, tests in ((3, False), (4, True)):
        CheckpointFolder(tmp_path).write(Checkpoint(Snapshot(step, DAY, params, {}, (), tests), {}, {}, ()))
    newest, older = (checkpoint.snapshot for checkpoint in CheckpointFolder(tmp_path).read_all())
    plan = Plan((DayPlan(DAY, NEXT),), 6, flexible=True)
    assert list(plan.go_on(newest.step, tests=newest.tests).after(4))[2:4] == [
        Evaluate(NEXT, 4, DAY), Train(DAY, 5, 4, 2, ahead=False),
    ]  # fmt: skip
    assert list(plan.go_on(older.step, tests=older.tests).after(3))[2] == Train(DAY, 4, 3, 3, ahead=False)


# -- a simulator -------------------------------------------------------------------


class Played:
    """A simulator's player without shards or scheduler; what it does, in a list."""

    def __init__(self, plan, step=0, asks=(), sees=True):
        self.plan, self.asks, self.did, self.asked = plan, set(asks), [], []
        self.shards_see_it = sees
        rules = Rules(7, None, None, None, rounds=plan.rounds)
        player = DayPlayer(
            self, self, self, rules, None, files=None, rank=1, lanes={1: 1}, store=self, days=None, params={},
            saver=None, step=step,
        )  # fmt: skip
        player._load = lambda date, split: self.did.append(f"load {date} {split}")
        player.play()

    # the scheduler
    def next_stages(self, step):
        self.asked.append(step)
        return self.plan.next_stages(step)

    def begin_sample_user_lists(self, first, rounds):
        return lambda: {first.step + k: Share(("a",), (1,)) for k in range(rounds)}

    def exchange(self, key, payload):
        self.did.append(key)

    def test_sample_user_list(self, when, together):
        return Share(("a",), (1,))

    def update_test_metrics(self, when, results, timings):
        self.did.append(f"test {when.date} after {when.step}")

    # the transport
    def begin(self, when, share):
        pass

    def pull(self, step):
        pass

    def push(self, when, share, done, pulled):
        self.did.append(f"train {when.round}{'+' if done.results else ''}")
        if when.step + 1 in self.asks:
            self.plan = self.plan.ask_test(when.step + 1)
            return RoundEnd(replanned=True)
        return RoundEnd()

    # the shards
    def train(self, when, share, following):
        if following is not None:
            assert following()[0].step == when.step + 1
        return ShareResult([following] if following else [], Timings())

    def evaluate(self, when, share, trained_on):
        return ShareResult([], Timings())

    # the store
    def clear_examples(self, date, split):
        pass


def test_a_simulator_does_what_it_is_told_and_tells_shards_what_is_certain():
    played = Played(Plan((DayPlan("a", "b"),), 5, eval_every=2))
    assert played.did == [
        "load a train", "load b test", "train 1+", "train 2", "test b after 2", "train 3+", "train 4", "test b after 4",
        "train 5", "test b after 5", "done/a/train", "done/b/test",
    ]  # fmt: skip
    assert played.asked == [0]


def test_a_simulator_forgets_what_it_was_told_when_the_plan_has_changed():
    played = Played(Plan((DayPlan("a", "b"),), 4, flexible=True), asks=[1, 4])
    assert played.did == [
        "load a train", "load b test", "train 1", "test b after 1", "train 2", "train 3", "train 4", "test b after 4",
        "done/a/train", "done/b/test",
    ]  # fmt: skip
    assert played.asked == [0, 1, 4]


def test_a_simulator_that_reads_no_memory_tells_its_shards_nothing():
    assert [what for what in Played(Plan((DayPlan("a", None),), 3), sees=False).did if what.startswith("train")] == [
        "train 1", "train 2", "train 3",
    ]  # fmt: skip


def test_a_simulator_of_a_run_that_goes_on_begins_where_it_stopped():
    assert Played(Plan((DayPlan("a", "b"),), 3).go_on(2), step=2).did[:3] == ["load a train", "load b test", "train 3"]
