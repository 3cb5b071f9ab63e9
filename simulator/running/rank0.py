"""Rank 0's part in a run: the scheduler's server, the record, the checkpoints and what a person sees."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from protos.codec import Tensors
from scheduler.rules.metrics import TIMES, mean_metrics, user_spread
from scheduler.rules.samplers import NoTestSampler
from scheduler.service.coordinator import Coordinator
from scheduler.service.messages import Layout
from scheduler.service.server import start_scheduler_server
from scheduler.state.checkpoints import Marks, Offer, Schedule, Segment, Snapshot
from scheduler.state.plan import Plan, plan_days
from scheduler.state.rounds import TEST, TRAIN, RoundRecord, Rules
from scheduler.state.stopping import Stop, StopRequest
from simulator.callbacks.callback import Callback, RunInfo
from simulator.callbacks.chain import CallbackChain
from simulator.checkpoints.files import FOLDER, Checkpoint, CheckpointFolder
from simulator.checkpoints.meaning import pieces_of, with_files
from simulator.checkpoints.resume import open_record
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.output.progress import RunProgress
from simulator.output.record import RunRecord
from simulator.output.result import RunResult, read_result
from simulator.output.waiting import Waiting
from simulator.running.scheduled_rates import Rates
from simulator.settings import Settings
from simulator.users.scratch import ScratchFolder

logger = logging.getLogger(__name__)

# For the processes of a run that has stopped to end.
_GONE_SECONDS = 10.0
# For the calls of simulators to end with the server.
_END_SECONDS = 1.0


class SchedulerService:
    """The listener of a run's coordinator.

    Args:
        role: of rank 0.
        settings: of the run.
        rules: of its rounds.
        meaning: the settings that the run's results depend on.
        result: name of the metric that is the result; None if the trainer names none.
        higher_is_better: whether a larger value of it is better.
        callbacks: of the page.
        rates: see `scheduled_rates`.

    Raises:
        FLError: the folder of the record cannot be used, or there is nothing there to go on from.
    """

    def __init__(
        self, role: FLSimRoleMaker, settings: Settings, rules: Rules, meaning: Mapping[str, Any], *,
        result: str | None = None, higher_is_better: bool = True, callbacks: Sequence[Callback] = (),
        rates: Rates = lambda step: {},
    ) -> None:  # fmt: skip
        self._settings, self._rules, self._rates = settings, rules, rates
        self._result, self._higher = result, higher_is_better
        self._meaning = with_files(meaning, settings)
        self._callbacks = CallbackChain(callbacks, saves=settings.checkpoint_every != 0)
        with ExitStack() as undo:
            # From here on nobody else touches the folder.
            self._folder, self._found = open_record(settings, self._meaning)
            undo.callback(self._folder.release)
            undo.callback(self._callbacks.close)
            self._open_record()
            self._start(role, undo)
            undo.pop_all()

    def _open_record(self) -> None:
        """Takes up the record, or begins it, and tells the callbacks."""
        settings, output = self._settings, self._folder.path
        shown = settings.model_dump(mode="json", exclude={"config", "resume"})
        self.checkpoints = CheckpointFolder(output / FOLDER)
        self.record = RunRecord(
            output, {**shown, "output": str(output)}, pieces=pieces_of(self._meaning), result=self._result,
            higher_is_better=self._higher, resumed=self.resumed,
        )  # fmt: skip
        if self.resumed:
            self.record.check(next(iter(self._found.values())).marks)
        self.progress = RunProgress(settings.progress)
        self._last_test: RoundRecord | None = None
        self._read: RunResult | None = None
        # The last checkpoint that is whole.
        self._safe: int | None = max(self._found, default=None)
        self._seconds = dict.fromkeys(TIMES, 0.0)
        self._rounds = 0
        self._waiting = Waiting()
        # Of the server, once it was told to.
        self._ended: threading.Event | None = None
        self._callbacks.begin(RunInfo(output, self._result, self.resumed, self._higher))

    def _start(self, role: FLSimRoleMaker, undo: ExitStack) -> None:
        """Starts the scheduler and its server."""
        # Of the socket, until all are connected.
        self._sockets = ScratchFolder()
        undo.callback(self._sockets.remove)
        settings, ranks = self._settings, role.simulator_ranks
        self.coordinator = Coordinator(
            self._rules, ranks, self, self._plan_of, Schedule(settings.checkpoint_every), settings.grace,
            self._callbacks.decide if self._callbacks else None,
        )  # fmt: skip
        undo.callback(self.coordinator.close)
        undo.callback(self.coordinator.fail, "the run has not begun")
        self._server, self.address = start_scheduler_server(
            self.coordinator, role.where_to_listen(self._sockets.path), len(ranks), role.gate, role.keys.credentials
        )

    @property
    def resumed(self) -> bool:
        """Whether the run goes on from a checkpoint."""
        return bool(self._found)

    # -- Listener ------------------------------------------------------------------

    def on_layout(self, layout: Layout) -> None:
        """All simulators have joined, and keep their connections."""
        self._sockets.remove()
        self.record.on_layout(layout)
        self.progress.on_layout(layout)
        self.progress.begin(self._plan_of(layout.days).steps)

    def on_initial(self, params: Tensors) -> None:
        """The initial parameters are there."""
        self.record.on_initial(params)
        self.progress.on_initial(params)

    def on_record(self, record: RoundRecord) -> None:
        """A round or a test is over."""
        self.record.on_record(record, self._rates(record.at.step) if record.phase == TRAIN else {})
        self.progress.on_record(record)
        self._waiting.add(record)
        if record.phase == TRAIN:
            self._rounds += 1
            self._seconds["seconds"] += record.seconds
            for part in TIMES[1:]:
                self._seconds[part] += getattr(record.timings, part)
        elif record.phase == TEST:
            self._last_test = replace(record, kept=None)
            logger.info("%s", _describe_test(record, self._result, higher_is_better=self._higher))
        if self._callbacks:
            self._callbacks.on_record(replace(record, kept=None), record.kept)

    def _plan_of(self, days: Sequence[str]) -> Plan:
        """What the run does, when all days are known."""
        test = not isinstance(self._rules.test_sampler, NoTestSampler)
        planned = plan_days(days, train_last_day=self._settings.train_last_day, test=test)
        return Plan(planned, self._rules.rounds, self._settings.eval_every, flexible=self._rules.asks_tests)

    # -- checkpoints -----------------------------------------------------------------

    def mark(self) -> Marks:
        """How far the record goes."""
        return self.record.mark()

    def sync(self) -> None:
        """Returns when all of the record is on the disk itself."""
        self.record.sync()

    def on_checkpoint(self, snapshot: Snapshot, marks: Marks, segments: Sequence[Segment]) -> None:
        """All parts of a checkpoint are there."""
        callbacks = self._callbacks.state_after(snapshot.step)
        self.checkpoints.write(Checkpoint(snapshot, marks, self._meaning, tuple(segments), callbacks))
        self._safe = snapshot.step
        logger.debug("checkpoint after %d rounds", snapshot.step)

    def offers(self) -> list[Offer]:
        """The checkpoints the run may go on from, newest first; empty for a new run."""
        return [checkpoint.offer for checkpoint in self._found.values()]

    def on_restore(self, step: int) -> Snapshot:
        """The run goes on from a checkpoint."""
        checkpoint = self._found[step]
        self.record.cut(checkpoint.marks, step)
        self.checkpoints.forget_after(step)
        self.progress.skip(step)
        self._callbacks.restore(checkpoint.callbacks)
        self._safe = step
        logger.info("resumed after round %d of the run, date %s", step, checkpoint.snapshot.date)
        return checkpoint.snapshot

    # -- the run ---------------------------------------------------------------------

    def request_stop(self, reason: str) -> None:
        """Has the run stop before its last round; called from another thread."""
        self.coordinator.stop(StopRequest(f"{reason} at rank 0", grace=self._settings.grace))

    def wait(self) -> None:
        """Waits until all simulators have left."""
        self.coordinator.wait_finished()

    @property
    def seen_alone(self) -> str | None:
        """Why the run has failed, if nobody else says it: a simulator that is gone cannot."""
        failure = self.coordinator.failure
        if failure is None or (failure.startswith("rank ") and " is gone" not in failure):
            return None
        return failure

    @property
    def way_on(self) -> str | None:
        """How a run that has failed can go on, if it can."""
        if self._safe is None or not self.checkpoints.has(self._safe) or not self.record.is_there:
            return None
        return f"--resume {self.record.folder} goes on after round {self._safe} of the run"

    def finish(self) -> Stop | None:
        """Waits for the end of the run; returns how it has stopped if that was before its last round."""
        self.coordinator.wait_finished()
        stop = self.coordinator.stopped
        if stop is not None and not stop.finishes:
            # The last to leave: a launcher ends what is left when a process leaves with a status.
            self.coordinator.wait_gone(_GONE_SECONDS)
        self._end_server(1.0)
        return stop

    def complete(self, stop: Stop | None) -> list[str]:
        """Writes the final parameters of a complete run; returns what is to be said of it, its results last."""
        self.record.save_params("final", self.coordinator.params.final())
        if self._callbacks:
            self._callbacks.on_end(self.result(stop))
        return ([] if stop is None else [str(stop)]) + self._summary()

    def result(self, stop: Stop | None) -> RunResult:
        """What has come of a complete run."""
        if self._read is None:
            self._read = read_result(self.record.folder, self._result, None if stop is None else stop.reason)
        return self._read

    def close(self) -> None:
        """Gives back all that is held: the last thing that is done, whatever has become of the run."""
        with ExitStack() as closing:
            closing.callback(self._folder.release)
            closing.callback(self._callbacks.close)
            closing.callback(self.coordinator.close)
            if self._ended is not None:
                self._ended.wait(_END_SECONDS)

    def _end_server(self, grace: float) -> None:
        self._ended = self._server.stop(grace)
        self._sockets.remove()
        self.progress.end()

    def _summary(self) -> list[str]:
        """Where the time went, where the record is, and the last test: its result, or all it has without one."""
        lines = []
        if self._rounds:
            whole = self._seconds["seconds"]
            parts = ", ".join(f"{k} {v / whole:.0%}" for k, v in self._seconds.items() if k != "seconds")
            lines.append(f"{self._rounds} rounds in {whole:.1f} s: {parts}")
            lines += filter(None, [self._waiting.line()])
        lines.append(f"record in {self.record.folder}")
        if self._last_test is not None:
            metrics = mean_metrics(self._last_test.results)
            if self._result is not None and self._result in metrics:
                lines.append(f"infer results: {metrics[self._result]:.6f}")
            else:
                lines.append("infer results: " + ", ".join(f"{name} {value:.6f}" for name, value in metrics.items()))
        return lines

    def abandon(self, message: str) -> None:
        """Ends the run for all simulators and closes the server."""
        self.coordinator.fail(message)
        self._end_server(0.2)
        self.close()


def _describe_test(record: RoundRecord, result: str | None, *, higher_is_better: bool) -> str:
    metrics = mean_metrics(record.results)
    values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    new = sum(r.new for r in record.results)
    users = f"{len(record.results) - new} users" + (f" and {new} new ones" if new else "")
    text = f"test on {record.at.date} after {record.at.round} rounds: {users}, {values}"
    if result is not None and result in metrics:
        spread = user_spread(record.results, result, higher_is_better=higher_is_better)
        text += f"; {result} of users: " + ", ".join(f"{name} {value:.4f}" for name, value in spread.items())
    return text
