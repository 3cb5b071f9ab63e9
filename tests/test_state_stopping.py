"""scheduler/state/stopping.py over real gRPC: one place decides after which round a run stops, and tells all."""

import signal
from queue import Queue

import numpy as np
import pytest
from scheduler_run import NOTHING, WAIT, Heard, Run, background, soon
from test_state_round_state import COUNTS, DAY, NEXT, NO_TIME, PLAN, at, grid, result

from protos.errors import AlreadyDone, NotFound, RunEnded, RunStopped, TooLarge
from scheduler.state.checkpoints import Schedule, Segment
from scheduler.state.rounds import Decision
from scheduler.state.stopping import STOPPED, Stop
from simulator.launch.signals import RunSignals, StoppedEarly

SEGMENT = Segment("step-00000001-rank1.private", 3, b"x")


class Saves(Heard):
    """A listener that keeps checkpoints too."""

    def __init__(self):
        super().__init__()
        self.checkpoints, self.synced = [], 0

    def mark(self):
        return {"records": {"size": len(self.records)}}

    def sync(self):
        self.synced += 1

    def on_checkpoint(self, snapshot, marks, segments):
        self.checkpoints.append((snapshot.step, snapshot.date, marks["records"]["size"], len(segments)))


def make(schedule=None, grace=60.0, tests=(), decide=None):
    schedule = schedule or Schedule(None)
    run = Run(PLAN, heard=Saves(), schedule=schedule, grace=grace, tests=tests, decide=decide)
    run.stops = Queue()
    run.make_ready({"w": np.array([1.0, 2.0], np.float32)}, ["mine"], COUNTS, DAY)
    for client in run.clients:
        soon(client.watch, lambda error: None, run.stops.put)
    return run


@pytest.fixture
def run():
    made = make()
    yield made
    made.close()


def begin(run, number=1, step=0):
    return run.both(lambda client, _: client.sample_user_list(at(number, step)))


def push(client, uids, sums, step=0):
    return client.fedavg_update(at(step + 1, step), [result(uid) for uid in uids], lambda: NO_TIME, grid(*sums))


def told(run):
    """What both have been told by their watch."""
    one, two = (run.stops.get(timeout=WAIT) for _ in range(2))
    assert one == two
    return one


def leave(run, step):
    """Both bring their part of the checkpoint, and leave."""
    for client in run.clients:
        soon(client.report_segments, step, [SEGMENT])
    return run.both(lambda client, _: client.exit())


def test_the_round_under_way_is_finished_and_then_all_stop(run):
    """Asked by rank 2 when rank 1 has pushed: round 1 counts, and no call of either goes on after it."""
    one, two = run.clients
    begin(run)
    first = background(push, one, "a", (4, 0))
    soon(two.request_stop, "SIGTERM")
    assert run.coordinator.stopped is None
    ahead = background(two.get_global_params, 1)
    with pytest.raises(RunStopped, match="stopped by SIGTERM at rank 2 after round 1 of the run"):
        soon(push, two, "bc", (-2, 6))
    for call in (first, ahead):
        with pytest.raises(RunStopped):
            call.result(WAIT)
    assert told(run) == Stop("SIGTERM at rank 2", STOPPED, 1, saves=True)
    with pytest.raises(RunStopped):
        soon(one.sample_user_list, at(2, 1))
    with pytest.raises(RunStopped):
        soon(one.exit)  # its part of the checkpoint is missing
    assert leave(run, 1) == [None, None]
    assert run.heard.checkpoints == [(1, DAY, 1, 2)]
    assert run.heard.synced == 1
    soon(run.coordinator.wait_finished)


def test_between_rounds_it_stops_at_once(run):
    soon(run.clients[0].request_stop, "SIGUSR1")
    assert told(run) == Stop("SIGUSR1 at rank 1", 75, 0, saves=False)
    assert run.both(lambda client, _: client.exit()) == [None, None]
    assert run.heard.checkpoints == []


def test_the_first_wish_counts_and_it_is_one_of_a_simulator(run):
    for _ in range(2):
        soon(run.clients[1].request_stop, "SIGTERM")
    soon(run.clients[0].request_stop, "SIGUSR1")
    assert told(run).reason == "SIGTERM at rank 2"
    with pytest.raises(NotFound):
        run.coordinator.ask_stop(3, "SIGTERM")
    with pytest.raises(TooLarge):
        run.coordinator.ask_stop(1, "x" * 2000)


def test_a_round_that_is_given_up_changes_nothing():
    """Rank 2 pushes too late: the checkpoint is that of round 1, before the test that came after it."""
    run = make(grace=0.8, tests=[1])
    try:
        one, two = run.clients
        begin(run)
        run.both(lambda client, rank: push(client, "a" if rank == 1 else "bc", (4, 0) if rank == 1 else (-2, 6)))
        before = {name: value.copy() for name, value in run.coordinator.params.final().items()}
        run.tell_users(COUNTS, NEXT, "test")
        shares = run.both(lambda client, _: client.test_sample_user_list(at(1, 1, NEXT)))
        run.both(
            lambda client, rank: client.update_test_metrics(
                at(1, 1, NEXT), [result(uid, weight=0.0) for uid in shares[rank - 1].uids], NO_TIME
            )
        )
        begin(run, 2, 1)
        soon(one.request_stop, "SIGTERM")
        assert told(run).step == 1
        with pytest.raises(RunStopped):
            soon(push, two, "b", (9, 9), 1)
        leave(run, 1)
        assert run.heard.checkpoints == [(1, DAY, 1, 2)]
        assert len(run.heard.records) == 2
        after = run.coordinator._live.state.model.params
        assert all((after[name] == before[name]).all() for name in before)
    finally:
        run.close()


def test_a_checkpoint_that_is_not_there_in_time_interrupts_the_run():
    run = make(grace=0.3)
    try:
        begin(run)
        run.both(lambda client, rank: push(client, "a" if rank == 1 else "bc", (4, 0) if rank == 1 else (-2, 6)))
        soon(run.clients[0].request_stop, "SIGTERM")
        assert told(run).saves
        with pytest.raises(RunEnded, match=r"interrupted: SIGTERM at rank 1, and no checkpoint within --grace 0.3 s"):
            soon(run.coordinator.wait_finished)
        assert run.coordinator.interrupted
        with pytest.raises(RunEnded):
            soon(run.clients[0].exit)
    finally:
        run.close()


def test_a_checkpoint_that_is_on_its_way_is_not_begun_twice():
    """One is due after round 1 by the schedule, and the run stops there."""
    run = make(Schedule(1))
    try:
        one, two = run.clients
        begin(run)
        first = background(push, one, "a", (4, 0))
        soon(two.request_stop, "SIGTERM")
        with pytest.raises(RunStopped):
            soon(push, two, "bc", (-2, 6))
        with pytest.raises(RunStopped):
            first.result(WAIT)
        assert told(run) == Stop("SIGTERM at rank 2", 75, 1, saves=True)
        leave(run, 1)
        with pytest.raises(AlreadyDone):
            run.coordinator.note_watch(1)
        assert run.heard.checkpoints == [(1, DAY, 1, 2)]
    finally:
        run.close()


def test_a_run_that_is_decided_to_be_complete_has_its_parameters_and_a_checkpoint():
    """After round 1, though a signal has asked for a stop as well; w is 1 + 2 (4 - 2) / 8 and 2 + 2 (0 + 6) / 8."""
    run = make(grace=30.0, decide=lambda record: Decision("enough", keep=True))
    try:
        one, two = run.clients
        begin(run)
        first = background(push, one, "a", (4, 0))
        soon(two.request_stop, "SIGTERM")
        with pytest.raises(RunStopped, match="stopped by enough after round 1 of the run"):
            soon(push, two, "bc", (-2, 6))
        with pytest.raises(RunStopped):
            first.result(WAIT)
        assert told(run) == Stop("enough", 0, 1, saves=True)
        assert run.coordinator.stopped.finishes
        assert leave(run, 1) == [None, None]
        soon(run.coordinator.wait_finished)
        (record,) = run.heard.told(1)
        assert record.kept["w"].tolist() == run.coordinator.params.final()["w"].tolist() == [1.5, 3.5]
        assert run.heard.checkpoints == [(1, DAY, 1, 2)]
    finally:
        run.close()


def test_who_is_leaving_already_is_not_stopped(run):
    run.coordinator._live.state.plan = NOTHING  # as if all rounds were done
    soon(run.clients[0].exit)
    soon(run.clients[1].request_stop, "SIGTERM")
    soon(run.clients[1].exit)
    soon(run.coordinator.wait_finished)
    assert run.coordinator.stopped is None


# -- signals -----------------------------------------------------------------------------


@pytest.fixture
def signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield RunSignals
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_before_the_run_ends_it(signals):
    signals(saves=True).listen()
    with pytest.raises(StoppedEarly, match="SIGUSR1"):
        signal.raise_signal(signal.SIGUSR1)


def test_signals_are_passed_on_and_a_second_sigterm_ends_it(signals, monkeypatch):
    now = [10.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    asked = Queue()
    listening = signals(saves=True)
    listening.listen()
    listening.follow(asked.put)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1):
        signal.raise_signal(number)
    assert [asked.get() for _ in range(4)] == ["SIGUSR1", "SIGTERM", "SIGTERM", "SIGUSR1"]
    now[0] += 1.5
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    listening.ignore()
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_without_checkpoints_each_signal_is_an_interruption(signals, number):
    listening = signals(saves=False)
    listening.listen()
    listening.follow(lambda name: None)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
