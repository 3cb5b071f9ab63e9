"""The callback template: decides after each round and test, and is told of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from protos.codec import Tensors
from scheduler.state.rounds import Decision, RoundRecord

if TYPE_CHECKING:
    from simulator.output.result import RunResult

CONTINUE = Decision()
KEEP = Decision(keep=True)
# After a round: a test follows, on the data that the day's own test is on; nothing on a day without one.
TEST_NOW = Decision(test=True)


def stop(reason: str, *, keep: bool = False) -> Decision:
    """The run is complete with this round.

    Args:
        reason: for `RunResult.stopped` and the last lines of the run.
        keep: whether `on_record` gets a copy of the shared parameters.
    """
    return Decision(reason, keep)


@dataclass(frozen=True)
class RunInfo:
    """The run that a callback is set in.

    Attributes:
        folder: of its record.
        result: name of the metric that the trainer calls the result; None if it names none.
        resumed: whether it goes on from a checkpoint.
        higher_is_better: whether a larger value of the result is better.
    """

    folder: Path
    result: str | None
    resumed: bool
    higher_is_better: bool = True


class Callback:
    """Override what you need.  All methods are called on rank 0 alone, in the process of the scheduler.

    A callback may be set in one run after another: `on_begin` is where it forgets the one before.
    """

    # Whether `decide` may answer `TEST_NOW`.  Shards then never begin a round by themselves, which costs short rounds
    # some milliseconds each.
    asks_tests: ClassVar[bool] = False

    def on_begin(self, run: RunInfo) -> None:
        """The run is about to begin.

        Args:
            run: which one.

        Raises:
            FLError: it cannot begin with this callback; nothing has been started.
        """

    def decide(self, record: RoundRecord) -> Decision:
        """Whether the run goes on, and whether `on_record` gets its parameters.

        All simulators wait for the answer, so it must be quick: no files, no network.  It must
        follow from the records alone, but for the times in them, which no two runs share: only then
        does the same run stop at the same round again, on any number of ranks and after a resume.

        Args:
            record: of the round ("train") or test ("test") that has just ended.

        Returns:
            `CONTINUE`, `KEEP`, `TEST_NOW` or `stop(reason)`.
        """
        return CONTINUE

    def on_record(self, record: RoundRecord, kept: Tensors | None) -> None:
        """The round or test is in the record; called in the thread that writes it, while the next rounds train.

        Args:
            record: of it.
            kept: copies of the shared parameters after it, by name, if a callback's `decide` asked for them.

        Raises:
            FLError: ends the run with this line; any other exception does with its traceback.
        """

    def on_end(self, result: RunResult) -> None:
        """The run is complete and all of its record is written; not called if it has failed.

        Args:
            result: what has come of it.
        """

    def close(self) -> None:
        """The run is over, complete or not: gives back what `on_begin` and `on_record` have taken."""

    def state_dict(self) -> Mapping[str, Any]:
        """What `decide` remembers, as JSON holds it: it is kept in checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave after the round of a checkpoint; comes after `on_begin`."""
