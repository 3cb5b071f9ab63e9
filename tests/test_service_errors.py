"""What goes wrong at the scheduler, over real gRPC: the right error for the one, the end of the run for all."""

import time
from queue import Queue
from threading import Event

import grpc
import numpy as np
import pytest
from doors import channel_of, keys
from scheduler_run import NOTHING, WAIT, Run, background, info, soon
from test_state_round_state import COUNTS, DAY, NEXT, NO_TIME, PLAN, at

from protos.errors import (
    AlreadyDone,
    BadInput,
    FLError,
    Forbidden,
    InternalError,
    NotFound,
    PeerLost,
    RunEnded,
    RunStopped,
    TooLarge,
    WrongState,
)
from protos.stubs import scheduler_server_pb2 as pb
from protos.stubs import scheduler_server_pb2_grpc as pb_grpc
from scheduler.service.client import SchedulerClient
from scheduler.service.server import SchedulerServicer
from scheduler.state.plan import DayPlan, Plan


@pytest.fixture
def run():
    made = Run(PLAN)
    yield made
    made.close()


@pytest.fixture
def ready(run):
    return run.make_ready({"w": np.array([1.0, 2.0], np.float32)}, ["mine"], COUNTS, DAY)


# -- errors ------------------------------------------------------------------------

KINDS = [BadInput, WrongState, NotFound, AlreadyDone, Forbidden, TooLarge, RunEnded, RunStopped, InternalError]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_back_as_what_it_was(run, monkeypatch, kind):
    def refuse(*args):
        raise kind("uid 'é': what is wrong")

    monkeypatch.setattr(run.coordinator, "leave", refuse)
    monkeypatch.setattr(run.coordinator, "exchange", refuse)
    for call in (run.clients[0].exit, lambda: run.clients[0].exchange("key", b"")):
        with pytest.raises(FLError, match=r"^uid 'é': what is wrong$") as caught:
            soon(call)
        assert caught.type is kind
    run.join()  # a refusal does not end the run


def test_what_does_not_fit_is_refused_by_name(ready):
    one = ready.clients[0]
    refusals = [
        (lambda: one.register(info(1)), AlreadyDone, "rank 1 has already joined"),
        (lambda: SchedulerClient(ready.address, keys(9)).exchange("key", b""), NotFound, "rank 9 is not a simulator"),
        (lambda: one.hash_sample_user_list(at()), WrongState, "samples with 'fixed', not 'hash'"),
        (lambda: one.update_user_inst_num(DAY, "train", {"a": 1}), AlreadyDone, "rank 1 has already told"),
        (lambda: one.update_user_inst_num("2020", "train", {"a": 1}), BadInput, "date '2020' is not of the form"),
        (lambda: one.update_user_inst_num(NEXT, "test", {"u" * 2000: 1}), TooLarge, "2000 characters"),
        (lambda: one.update_global_params({"w": np.zeros(2, np.float32)}, []), AlreadyDone, "already set"),
        (lambda: one.fedavg_update(at(), [], lambda: NO_TIME, {}), WrongState, "no round is on"),
    ]
    for call, kind, message in refusals:
        with pytest.raises(kind, match=message):
            soon(call)


def test_nothing_works_before_all_have_joined(run):
    with pytest.raises(WrongState, match="not all simulators have joined"):
        soon(run.clients[0].get_global_params, 0)


def test_an_exception_nobody_foresaw_ends_the_run_with_its_traceback(run):
    run.join()
    waiting = background(run.clients[1].exchange, "key", b"")

    def crash(params, frozen):
        raise RuntimeError("the listener broke")

    run.heard.on_initial = crash
    with pytest.raises(InternalError, match="RuntimeError: the listener broke"):
        soon(run.clients[0].update_global_params, {"w": np.zeros(2, np.float32)}, [])
    with pytest.raises(RunEnded, match=r"(?s)rank 0\) failed:\nTraceback .* in crash\n.*the listener broke"):
        waiting.result(WAIT)


def test_a_scheduler_that_is_gone_is_lost_and_named(run, monkeypatch):
    run.join()
    arrived, exchange = Event(), run.coordinator.exchange
    monkeypatch.setattr(run.coordinator, "exchange", lambda *args: (arrived.set(), exchange(*args))[1])
    waiting = background(run.clients[0].exchange, "key", b"")
    assert arrived.wait(WAIT)
    run.server.stop(0).wait(WAIT)
    for future in (waiting, background(run.clients[1].exit)):
        with pytest.raises(PeerLost, match=f"the scheduler .rank 0. at {run.address} does not answer"):
            future.result(WAIT)


# -- failure -----------------------------------------------------------------------


def test_a_reported_failure_ends_every_wait_with_its_message(ready):
    ends = Queue()
    soon(ready.clients[0].watch, ends.put)
    waits = [
        background(ready.clients[0].exchange, "key", b""),
        background(ready.clients[0].get_global_params, 1),
        background(ready.clients[0].update_user_inst_num, NEXT, "test", {"a": 1}),
        background(ready.coordinator.wait_finished),
    ]
    soon(ready.clients[1].report_failure, "rank 2: uid 'b', date 20200101: diverged")
    soon(ready.clients[1].report_failure, "rank 2: a later one")
    for wait in waits:
        with pytest.raises(RunEnded, match=r"^rank 2: uid 'b', date 20200101: diverged$"):
            wait.result(WAIT)
    assert isinstance(ends.get(timeout=WAIT), RunEnded)
    with pytest.raises(RunEnded, match="uid 'b'"):
        soon(ready.clients[0].exchange, "another", b"")


def test_a_simulator_that_drops_its_watch_fails_the_run_for_the_other(run):
    run.join()
    ends = Queue()
    soon(run.clients[0].watch, ends.put)
    soon(run.clients[1].watch, lambda error: None)
    waiting = background(run.clients[0].exchange, "key", b"")
    run.clients[1].close()
    with pytest.raises(RunEnded, match="rank 2 is gone: its process died or its host cannot be reached"):
        waiting.result(WAIT)
    error = ends.get(timeout=WAIT)
    assert isinstance(error, RunEnded)
    assert "rank 2 is gone" in str(error)


def test_a_simulator_that_said_good_bye_may_drop_its_watch(run):
    run.plan = NOTHING
    run.join()
    for client in run.clients:
        soon(client.watch, lambda error: None)
    soon(run.clients[1].exit)
    run.clients[1].close()
    soon(run.clients[0].exit)
    assert soon(run.coordinator.wait_finished) is None


def test_a_simulator_does_not_leave_while_it_is_needed(ready):
    """It once could at any time, and the others waited for it for ever."""
    with pytest.raises(WrongState, match="rank 2 cannot leave: 0 of 2 rounds of the run are done"):
        soon(ready.clients[1].exit)
    ready.coordinator._live.state.plan = Plan((DayPlan(DAY, NEXT),), 0)
    with pytest.raises(WrongState, match=f"rank 2 cannot leave: the test on {NEXT} is still to come"):
        soon(ready.clients[1].exit)
    ready.coordinator._live.state.plan = NOTHING
    waiting = background(ready.clients[0].exchange, "key", b"")
    with ready.changed:
        assert ready.changed.wait_for(lambda: "key" in ready.coordinator._posts._posted, WAIT)
    with pytest.raises(WrongState, match="rank 2 cannot leave: others wait until it posts 'key'"):
        soon(ready.clients[1].exit)
    soon(ready.clients[1].exchange, "key", b"")
    waiting.result(WAIT)
    soon(ready.clients[1].exit)
    # What can never be complete is not waited for.
    with pytest.raises(WrongState, match=r"rank 1 posts 'more', which ranks \[2\], who have left, never will"):
        soon(ready.clients[0].exchange, "more", b"")


def test_what_nobody_waits_for_any_more_counts_as_not_said(ready):
    told = ready.clients[0]
    request = pb.ExchangeRequest(rank=1, key="key", payload=b"too soon")
    with channel_of(1, ready.address) as channel, pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        list(pb_grpc.SchedulerServerStub(channel).Exchange(request, timeout=0.2))
    # Nobody is told that a call has been given up.
    end = time.monotonic() + WAIT
    with ready.changed:
        while ready.coordinator._posts._posted and time.monotonic() < end:
            ready.changed.wait(0.02)
        assert not ready.coordinator._posts._posted
    waiting = background(told.exchange, "key", b"now")
    assert soon(ready.clients[1].exchange, "key", b"2") == waiting.result(WAIT) == {1: b"now", 2: b"2"}


def test_nobody_waits_for_a_round_that_never_comes(ready):
    """The run has two rounds: steps 0 and 1."""
    refused = (
        lambda client: client.end_round(at(3, 2)),
        lambda client: client.sample_user_list(at(3, 2)),
        lambda client: client.get_global_params(3),
        lambda client: client.test_sample_user_list(at(3, 3)),
    )
    for call in refused:
        with pytest.raises(WrongState, match=r"was asked for, 0 is due, \d is the last"):
            soon(call, ready.clients[0])


def test_only_the_first_simulator_sets_the_initial_parameters(run):
    run.join()
    with pytest.raises(Forbidden, match="rank 2 sets the initial parameters, which rank 1 does"):
        soon(run.clients[1].update_global_params, {"w": np.zeros(2, np.float32)}, [])
    soon(run.clients[0].update_global_params, {"w": np.zeros(2, np.float32)}, [])


def test_a_simulator_that_dies_as_its_watch_begins_fails_the_run_too(run):
    """The connection may break when the first reply is on its way and the method has not gone on yet."""
    run.join()
    broken = []

    class Context:
        def add_callback(self, callback):
            broken.append(callback)
            return True

        def is_active(self):
            return True

    class Request:
        rank = 2

    replies = SchedulerServicer(run.coordinator).Watch(Request(), Context())
    next(replies)
    waiting = background(run.coordinator.wait_finished)
    broken[0]()
    with pytest.raises(RunEnded, match="rank 2 is gone"):
        waiting.result(2.0)
