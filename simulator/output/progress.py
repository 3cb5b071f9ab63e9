"""What a person sees of a run on rank 0: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from protos.codec import Tensors
from scheduler.rules.metrics import ratio, reduce_metrics
from scheduler.service.messages import Layout
from scheduler.state.global_model import OF
from scheduler.state.rounds import TRAIN, RoundRecord
from simulator.launch.launch_environment import launch_of
from simulator.launch.launcher import find_launcher

logger = logging.getLogger(__name__)

Style = Literal["auto", "bar", "plain", "none"]
# Seconds between plain lines, so that a log of a long run stays readable.
_PAUSE = 5.0


class RunProgress:
    """Shows rounds, loss and the time left.

    Args:
        style: "auto" chooses the bar if a terminal is there.
        total: rounds of the whole run, told when the days are known.
    """

    def __init__(self, style: Style) -> None:
        self._bar = style == "bar" or (style == "auto" and on_terminal())
        self._quiet = style == "none"
        self._progress: Progress | None = None
        self._total = self._done = self._skipped = 0
        self._began = self._said = time.monotonic()

    def begin(self, total: int) -> None:
        """Tells how many rounds the run has."""
        self._total, self._began = total, time.monotonic()
        if self._bar and not self._quiet and total:
            # Under mpirun stdout is a pipe, but what goes in comes out on the terminal.
            console = Console(force_terminal=True)
            self._progress = Progress(
                TextColumn("round"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[note]}"),
                TextColumn("left"), TimeRemainingColumn(), console=console, transient=True,
            )  # fmt: skip
            self._task = self._progress.add_task("rounds", total=total, note="")
            self._progress.start()

    def skip(self, rounds: int) -> None:
        """Tells that so many rounds were done in an earlier run."""
        self._done = self._skipped = rounds
        if self._progress is not None:
            self._progress.update(self._task, advance=rounds)

    def on_layout(self, layout: Layout) -> None:
        """Says who takes part."""
        shards = sum(info.shards for info in layout.simulators)
        hosts = len({info.host for info in layout.simulators})
        counts = ((len(layout.simulators), "simulator"), (shards, "shard"), (hosts, "host"))
        logger.info("%s", ", ".join(f"{n} {what}{'' if n == 1 else 's'}" for n, what in counts))

    def on_initial(self, params: Tensors) -> None:
        """Says how large the model is."""
        model = sum(value.size for name, value in params.items() if OF not in name)
        beside = sum(value.size for value in params.values()) - model
        logger.info("%d shared parameters%s", model, f", {beside} numbers beside them" if beside else "")

    def on_record(self, record: RoundRecord) -> None:
        """Moves the bar, or says a line."""
        if record.phase != TRAIN or self._quiet:
            return
        self._done += 1
        loss = reduce_metrics(record.results).get("loss")
        note = f"loss {ratio(loss):.4f}" if loss else ""
        note += f" {record.seconds:.2f} s"
        if self._progress is not None:
            self._progress.update(self._task, advance=1, note=note)
        elif time.monotonic() - self._said > _PAUSE or self._done in (self._skipped + 1, self._total):
            self._said = time.monotonic()
            each = (self._said - self._began) / (self._done - self._skipped)
            left = each * (self._total - self._done)
            logger.info("round %d/%d %s, %.0f s left", self._done, self._total, note, left)

    def end(self) -> None:
        """Removes the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def on_terminal() -> bool:
    """Whether what this process writes is seen on a terminal, if need be through the launcher that passes it on.

    The launcher's own output counts: Open MPI gives its ranks a terminal even if it writes to a
    file, MPICH gives them a pipe.  A launcher on another machine is not asked: plain lines are right anywhere.
    """
    if launch_of(os.environ) is None:
        return sys.stdout is not None and sys.stdout.isatty()
    launcher = find_launcher(os.getppid())
    if launcher is None:
        return False
    try:
        return os.readlink(f"/proc/{launcher[0]}/fd/1").startswith(("/dev/pts/", "/dev/tty"))  # noqa: PTH115
    except OSError:
        return False
