"""One user's turn, as an algorithm sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from protos.codec import Array, Tensors
from protos.errors import BadInput
from scheduler.rules.exact_sum import ExactSum, scale_exponent
from scheduler.rules.metrics import Pair
from scheduler.rules.streams import stream
from simulator.contracts import Examples, Trainer
from simulator.worker.model_update import ModelUpdate, Rows
from simulator.worker.round_arrays import RoundArrays, full_name, read_only

if TYPE_CHECKING:
    from simulator.worker.model_state import ModelState


class Trains(Protocol):
    """Trains the model of this shard with the page's trainer."""

    def __call__(
        self, examples: Examples, part: str, epochs: int | None, correct: Callable[[], None] | None
    ) -> tuple[dict[str, Pair], int]:
        """Metrics, and how many optimizer steps were made; `part` tells the trainings of one turn apart."""


class LocalTurn:
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
        trains: trains the model.
    """

    def __init__(
        self, uid: str, date: str, round: int, phase: str, *, seed: int, weight: float, model: ModelState,
        begin: RoundArrays, states: Sequence[Tensors], known: bool, examples: Callable[[], Examples], trainer: Trainer,
        trains: Trains,
    ) -> None:  # fmt: skip
        self.uid, self.date, self.round, self.weight = uid, date, round, weight
        self.state, self.known = states[0], known
        self._states = states
        self.scalars: dict[str, Pair] = {}
        self._phase, self._seed, self._model, self._begin = phase, seed, model, begin
        self._examples, self._trainer, self._trains = examples, trainer, trains
        self._sent: dict[str, Mapping[str, Array]] = {}
        self._only: Sequence[str] | None = None
        self._steps: int | None = None
        self._trainings = 0
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
    def lr(self) -> float:
        """Local learning rate."""
        return float(self._number("lr"))

    @property
    def epochs(self) -> int:
        """Local epochs."""
        return int(self._number("epochs"))

    def _number(self, name: str) -> Any:
        value = getattr(self._trainer, name, None)
        if value is None:
            raise BadInput(f"{type(self._trainer).__name__} has no {name!r}, which this algorithm needs")
        return value

    @property
    def steps(self) -> int:
        """Optimizer steps of the last training."""
        if self._steps is None:
            raise BadInput(f"uid {self.uid!r}: the algorithm asks for the steps of a training before there is one")
        if not self._steps and all(map(len, self.examples.values())):
            raise self._untold("counts steps")
        return self._steps

    @property
    def shared(self) -> Mapping[str, Array]:
        """The model's shared parameters as the round began."""
        return self._begin.model

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
        self._settle()
        for name, value in arrays.items():
            spec = self._model.specs.get(name)
            if spec is None or value.shape != spec.shape:
                raise BadInput(
                    f"uid {self.uid!r}: load got {name!r} {list(value.shape)}, the model has {spec or 'no such'}"
                )
        self._model.load(arrays)

    def reset(self) -> None:
        """Has the model be as the turn began."""
        self.load({**self._begin.model, **self._private})

    def train(
        self, *, epochs: int | None = None, only: Iterable[str] | None = None,
        correct: Callable[[], None] | None = None,
    ) -> dict[str, Pair]:  # fmt: skip
        """Trains from where the model is."""
        self._settle()
        self._settled = False
        examples = self.examples
        if not all(map(len, examples.values())):
            self._steps = 0
            return {}
        self._only = None if only is None else tuple(only)
        if self._only == ():
            raise BadInput(f"uid {self.uid!r}: train(only=[]) trains nothing; the model may have no such parameters")
        if self._only is not None:
            self._model.train_only(self._only)
        part = f"part {self._trainings}" if self._trainings or self._phase != "train" else ""
        self._trainings += 1
        metrics, self._steps = self._trains(examples, part, epochs, correct)
        if not self._steps and correct is not None:
            raise self._untold("corrects gradients")
        return metrics

    def _untold(self, what: str) -> BadInput:
        return BadInput(
            f"uid {self.uid!r}: this algorithm {what}, but {type(self._trainer).__name__}.train_user never calls "
            "user.before_step(); call it between backward() and the optimizer's step"
        )

    def _settle(self) -> None:
        """Makes the model ready for another training, with the values that it has."""
        if not self._settled:
            self._model.put_back(None)
            self._settled = True

    def gradients(self) -> Mapping[str, Array]:
        """Of the shared parameters that train now."""
        names = self._model.trained if self._only is None else [n for n in self._model.trained if n in self._only]
        # What is written to is an array, and not this mapping.
        return MappingProxyType({name: self._model.gradient(name) for name in names})

    # -- what is sent ------------------------------------------------------------

    @cached_property
    def update(self) -> ModelUpdate:
        """What is sent of the model."""
        return ModelUpdate(self._model, self._begin.model, self.uid)

    def send(self, group: str, arrays: Mapping[str, Array]) -> None:
        """What is sent of a group."""
        there = self._begin.groups.get(group, {})
        for name, value in arrays.items():
            if name not in there or value.shape != there[name].shape:
                raise BadInput(
                    f"uid {self.uid!r}: the algorithm sends {name!r} {list(value.shape)} of group {group!r}, which has "
                    f"{ {n: list(a.shape) for n, a in there.items()} }"
                )
        self._sent[group] = arrays

    def scalar(self, name: str, value: float, count: float = 1.0) -> None:
        """Adds to a sum over users."""
        total, counted = self.scalars.get(name, (0.0, 0.0))
        total, counted = total + float(value), counted + float(count)
        if not (math.isfinite(total) and math.isfinite(counted) and counted >= 0):
            raise BadInput(
                f"uid {self.uid!r}: scalar {name!r} is ({value}, {count}): its training diverged; lower --lr"
            )
        self.scalars[name] = total, counted

    @property
    def sends_more(self) -> str:
        """What is sent beside the model, for errors; "" if nothing."""
        return ", ".join([*(f"group {g!r}" for g in self._sent), *(f"scalar {s!r}" for s in self.scalars)])

    def add_to(self, exact: ExactSum, cohort_size: int, equal: Iterable[str], rows: Rows) -> None:
        """Adds all that is sent to the sums of a share.

        Args:
            exact: of the share.
            cohort_size: users of the whole cohort.
            equal: groups in whose mean each user counts as one.
            rows: see `ModelUpdate.add_to`.
        """
        self.update.add_to(exact, self.weight, rows)
        for group, arrays in self._sent.items():
            one = group in equal
            exponent = scale_exponent((1.0,) * cohort_size) if one else None
            for name, value in arrays.items():
                exact.add(full_name(group, name), value, 1.0 if one else self.weight, self.uid, exponent)
