"""One user's turn, as an algorithm sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from protos.codec import Array, Tensors
from protos.errors import BadInput
from scheduler.rules.exact_sum import ExactSum
from scheduler.rules.layers import Layers
from scheduler.rules.local import OnFeatures
from scheduler.rules.metrics import Pair
from scheduler.rules.streams import stream
from simulator.contracts import Again, Examples, Trainer
from simulator.worker.gradients import Gradients
from simulator.worker.model_update import ModelUpdate, Rows
from simulator.worker.passes import Passes
from simulator.worker.round_arrays import RoundArrays, read_only
from simulator.worker.sent import Sent
from simulator.worker.trainer_numbers import TrainerNumbers
from simulator.worker.turn import OnStep, Plays

if TYPE_CHECKING:
    from simulator.worker.model_state import ModelState


class LocalTurn(TrainerNumbers):
    """See `scheduler.rules.algorithm.Local`.

    Args:
        uid: of the user.
        date: the day.
        round: of the day.
        phase: "train" or "test".
        seed: of the run.
        weight: of the user.
        model: a `ModelState` that holds the round's parameters and the user's own.
        begin: what the round began with.
        states: the user's own arrays, of the algorithm and of each filter.
        known: whether it has trained before.
        examples: its training examples of the day.
        trainer: of the page.
        plays: has it train and test the model.
    """

    def __init__(
        self, uid: str, date: str, round: int, phase: str, *, seed: int, weight: float, model: ModelState,
        begin: RoundArrays, states: Sequence[Tensors], known: bool, examples: Callable[[], Examples], trainer: Trainer,
        plays: Plays,
    ) -> None:  # fmt: skip
        super().__init__(trainer)
        self.uid, self.date, self.round, self.weight = uid, date, round, weight
        self.state, self.known = states[0], known
        self._states = states
        # Whether the algorithm has done anything to the model.
        self.acted = False
        self._phase, self._seed, self._model, self._begin = phase, seed, model, begin
        self._examples, self._plays = examples, plays
        self._sent = Sent(uid, begin.groups)
        self._only: Sequence[str] | None = None
        self._steps: int | None = None
        self._skipped = 0
        self._parts = {"part": 0, "evaluate": 0}
        self._passes = Passes(uid, model)
        self._training = False
        # Whether the model is as a turn must find it.
        self._settled = True
        # What only this turn knows: private parameters as it began.
        self._private = {name: model.read(name).copy() for name in model.private}

    def at_piece(self, number: int) -> LocalTurn:
        """This turn with the state of the algorithm (0) or of a filter (from 1)."""
        self.state = self._states[number]
        return self

    # -- what is known -----------------------------------------------------------

    @cached_property
    def rng(self) -> np.random.Generator:
        """A stream of this turn."""
        return stream(self._seed, "algorithm", self._phase, self.date, self.round, self.uid)

    @cached_property
    def examples(self) -> Examples:
        """Training examples of the day."""
        return self._examples()

    @property
    def steps(self) -> int:
        """Optimizer steps of the last training."""
        if self._steps is None:
            raise BadInput(f"uid {self.uid!r}: the algorithm asks for the steps of a training before there is one")
        if not self._steps and all(map(len, self.examples.values())):
            raise self._untold("counts steps", "before_step", "between backward() and the optimizer's step")
        return self._steps

    @property
    def reach(self) -> float:
        """How far these go."""
        rule, steps = getattr(self._trainer, "local_rule", None), self.steps - self._skipped
        found = float(steps) if rule is None else rule.reach(steps)
        if found is None:
            raise BadInput(
                f"uid {self.uid!r}: the algorithm asks how far steps go, which is not known of {rule!r}; "
                "say so by its local_optimizers"
            )
        return float(found)

    @property
    def shared(self) -> Mapping[str, Array]:
        """The model's shared parameters as the round began."""
        return self._begin.model

    @property
    def layers(self) -> Layers:
        """The model's arrays by their layers."""
        layers: Layers = self._model.layers
        return layers

    @property
    def trained(self) -> Sequence[str]:
        """Shared parameters that have gradients."""
        names: Sequence[str] = self._model.trained
        return names

    @property
    def own(self) -> Sequence[str]:
        """Private parameters that have gradients."""
        names: Sequence[str] = self._model.own
        return names

    @property
    def params(self) -> Mapping[str, Array]:
        """The model's parameters now."""
        return {name: read_only(self._model.read(name)) for name in self._model.specs}

    def group(self, name: str) -> Mapping[str, Array]:
        """A group's arrays as the round began."""
        return self._begin.groups[name]

    # -- what it does ------------------------------------------------------------

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Sets parameters."""
        self.acted = True
        self._settle()
        self._passes.check(arrays)
        if self._training:
            self._model.bring_home()
        self._model.load(arrays)

    def reset(self) -> None:
        """Has the model be as the turn began."""
        self.load({**self._begin.model, **self._private})

    def train(
        self, *, epochs: int | None = None, batch_size: int | None = None, only: Iterable[str] | None = None,
        correct: Callable[[], None] | None = None, on_features: OnFeatures | None = None, head: str = "",
        examples: Mapping[str, Array] | None = None,
    ) -> dict[str, Pair]:  # fmt: skip
        """Trains from where the model is."""
        self._refuse_within("another training")
        self.acted = True
        self._settle()
        self._settled = False
        rows = self.examples if examples is None else dict(examples)
        if not all(map(len, rows.values())):
            self._steps = 0
            return {}
        self._only = None if only is None else tuple(only)
        if self._only == ():
            raise BadInput(f"uid {self.uid!r}: train(only=[]) trains nothing; the model may have no such parameters")
        if self._only is not None:
            self._model.train_only(self._only)
        part = self._part("part", first="" if self._phase == "train" else "part 0")
        ends = self._passes.head_input(head).correct(on_features) if on_features is not None else lambda: None
        self._training, self._skipped = True, 0
        try:
            metrics, turn = self._plays.train(rows, part, epochs, batch_size, OnStep(self._passes.begin_batch, correct))
        finally:
            ends()
            self._training, self._passes.step = False, None
        self._steps = turn.steps
        if not self._steps and correct is not None:
            raise self._untold("corrects gradients", "before_step", "between backward() and the optimizer's step")
        if on_features is not None:
            self._passes.head_input(head).check_told()
        return metrics

    def _part(self, what: str, first: str) -> str:
        """Tells this training or test of the turn from those before it, for random streams of its own."""
        number = self._parts[what]
        self._parts[what] += 1
        return f"{what} {number}" if number else first

    def _untold(self, what: str, call: str, when: str) -> BadInput:
        return BadInput(
            f"uid {self.uid!r}: this algorithm {what}, but {type(self._trainer).__name__}.train_user never calls "
            f"user.{call}(); call it {when}"
        )

    def _refuse_within(self, what: str) -> None:
        if self._training:
            raise BadInput(f"uid {self.uid!r}: the algorithm asks for {what} within a training; ask before or after it")

    def _settle(self) -> None:
        """Makes the model ready for another training, with the values that it has."""
        if not self._settled and not self._training:
            self._model.put_back(None)
            self._settled = True

    def gradients(self) -> Mapping[str, Array]:
        """Of the shared parameters that train now."""
        names = self._model.trained if self._only is None else [n for n in self._model.trained if n in self._only]
        return Gradients(self._model, names)

    def skip(self) -> None:
        """Has the optimizer's step pass by the shared parameters."""
        self._skipped += 1
        # Optimizers leave alone what has no gradient.
        self._model.clear_gradients(self._model.trained)

    # -- the batch of a step, and tests ----------------------------------------------

    def _step_now(self) -> tuple[Mapping[str, Any], Again]:
        if self._passes.step is None:
            raise self._untold("looks at the batch of a step", "before_batch", "before each batch goes forth")
        return self._passes.step

    @property
    def batch(self) -> Mapping[str, Array]:
        """Of the step that is on."""
        return {name: read_only(np.asarray(rows)) for name, rows in self._step_now()[0].items()}

    def again(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Gradients of the step's batch at other parameters."""
        names = [*self._model.trained, *self._model.own]
        names = names if self._only is None else [name for name in names if name in self._only]
        return self._passes.gradients(names, arrays, self._step_now()[1])

    def features(
        self, arrays: Mapping[str, Array] | None = None, *, head: str = "", examples: Mapping[str, Array] | None = None
    ) -> Array:
        """What goes into the head."""
        if self._training and examples is None:
            return self._passes.features_of_batch(head, arrays or {}, *self._step_now())
        self._refuse_within("features of examples")
        self._settle()
        rows = self.examples if examples is None else dict(examples)
        if not all(map(len, rows.values())):
            raise BadInput(f"uid {self.uid!r}: the algorithm asks for the features of no examples")
        with self._passes.at(arrays or {}, training=False):
            watch = self._passes.head_input(head)
            return watch.seen(lambda: self._evaluate(rows), len(next(iter(rows.values()))))

    def evaluate(self, examples: Mapping[str, Array] | None = None) -> dict[str, Pair]:
        """Metrics of the model as it is."""
        self._refuse_within("a test")
        self._settle()
        rows = self.examples if examples is None else dict(examples)
        if not all(map(len, rows.values())):
            return {}
        with self._passes.at({}, training=False):
            return self._evaluate(rows)

    def _evaluate(self, rows: Examples) -> dict[str, Pair]:
        return self._plays.evaluate(rows, self._part("evaluate", first="evaluate 0"))

    # -- what is sent ------------------------------------------------------------

    @cached_property
    def update(self) -> ModelUpdate:
        """What is sent of the model."""
        return ModelUpdate(self._model, self._begin.model, self.uid)

    def send(self, group: str, arrays: Mapping[str, Array]) -> None:
        """What is sent of a group."""
        self._sent.add_group(group, arrays)

    def scalar(self, name: str, value: float, count: float = 1.0) -> None:
        """Adds to a sum over users."""
        self._sent.add_scalar(name, value, count)

    @property
    def scalars(self) -> dict[str, Pair]:
        """What was said with `scalar`."""
        return self._sent.scalars

    @property
    def sends_more(self) -> str:
        """What is sent beside the model, for errors; "" if nothing."""
        return self._sent.more

    def add_to(self, exact: ExactSum, cohort_size: int, equal: Iterable[str], rows: Rows) -> None:
        """Adds all that is sent to the sums of a share; see `Sent.add_to`."""
        self._sent.add_to(exact, self.update, self.weight, cohort_size, equal, rows)
