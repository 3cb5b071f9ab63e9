"""Curves for TensorBoard, written by tensorboardX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protos.codec import Tensors
from protos.errors import BadInput, FLError
from scheduler.rules.metrics import mean_metrics, user_spread
from scheduler.state.rounds import TRAIN, RoundRecord
from simulator.callbacks.callback import Callback, RunInfo


class TensorBoard(Callback):
    """Writes train/METRIC and test/METRIC, and how users differ in the result, against the rounds of the run.

    Args:
        folder: of the event files; None for `tensorboard` in the record.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._wanted = folder
        self._run: RunInfo | None = None
        self._writer: Any = None

    def on_begin(self, run: RunInfo) -> None:
        """Looks whether there is something to write with.

        Raises:
            BadInput: tensorboardX is not installed.
        """
        self._run = run
        _summary_writer()

    def on_record(self, record: RoundRecord, kept: Tensors | None) -> None:
        """Adds a point to each curve."""
        assert self._run is not None, "on_begin comes first"
        rounds = record.at.step + 1 if record.phase == TRAIN else record.at.step
        points = {f"{record.phase}/{name}": value for name, value in mean_metrics(record.results).items()}
        points[f"{record.phase}/seconds"] = record.seconds
        result = self._run.result
        if record.phase != TRAIN and result is not None and f"{record.phase}/{result}" in points:
            spread = user_spread(record.results, result, higher_is_better=self._run.higher_is_better)
            points |= {f"users/{result}_{key}": value for key, value in spread.items()}
        try:
            writer = self._open(rounds)
            for name, value in points.items():
                writer.add_scalar(name, value, rounds)
            writer.flush()
        except OSError as error:
            raise FLError(f"TensorBoard: {self._folder} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    @property
    def _folder(self) -> Path:
        assert self._run is not None, "on_begin comes first"
        return self._run.folder / "tensorboard" if self._wanted is None else self._wanted

    def _open(self, rounds: int) -> Any:
        if self._writer is None:
            assert self._run is not None, "on_begin comes first"
            # Points of rounds that are trained again come a second time: the first ones do not count.
            purge = rounds if self._run.resumed else None
            self._writer = _summary_writer()(str(self._folder), purge_step=purge)
        return self._writer


def _summary_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise BadInput('TensorBoard needs tensorboardX: pip install "fl-mobile-simulator[tensorboard]"') from error
    return SummaryWriter
