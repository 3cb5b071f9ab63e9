"""Tests users in groups: what a test of several in one go must not do, and what happens if it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from protos.codec import Tensors
from protos.errors import BadInput
from scheduler.rules.algorithm import Algorithm, personalises
from scheduler.rules.metrics import UserResult
from simulator.contracts import Trainer

if TYPE_CHECKING:
    from simulator.worker.evaluation import Evaluation
    from simulator.worker.model_state import ModelState


def examples_together(trainer: Trainer, algorithm: Algorithm, model: ModelState) -> int:
    """Examples of users that are tested in one go; 0 if each user is tested by itself.

    A personal model is made of the one model of a shard, so it has one user.

    Raises:
        BadInput: the trainer's number is none.
    """
    ask: Any = getattr(trainer, "tests_together", None)
    if ask is None or personalises(algorithm):
        return 0
    number = ask(model.model, tuple(model.private))
    if type(number) is not int or not 0 <= number < 2**32:
        raise BadInput(
            f"{type(trainer).__name__}.tests_together must return how many examples are tested in one go, an int "
            f"from 0, not {number!r}"
        )
    return number


class GroupTests:
    """Tests groups of users, each on the round's parameters.

    What a group gives is its own alone, wherever it is tested and after whom.  If its test fails, or has
    changed the model, in which one of its users may have met another, its users are tested one by one.

    Args:
        model: a `ModelState`.
        evaluation: tests users one by one.
        at: is told whose turn it is, for errors.
    """

    def __init__(self, model: ModelState, evaluation: Evaluation, at: Callable[[str], None]) -> None:
        self._model, self._evaluation, self._at = model, evaluation, at

    def run(
        self, where: str, numbers: Sequence[int], shared: Tensors, together: Callable[[], list[UserResult]],
        test: Callable[[int], UserResult],
    ) -> list[UserResult]:  # fmt: skip
        """Tests a group.

        Args:
            where: the group, for errors.
            numbers: of its users.
            shared: the round's shared parameters; the model holds them.
            together: tests all of them.
            test: tests one.

        Raises:
            Exception: of one user's test; of the group's, if each of its users can be tested by itself.
        """
        self._at(where)
        try:
            results = together()
        except Exception:
            # A user that fails by itself is named.
            self._one_by_one(numbers, shared, test)
            self._at(where)
            raise
        self._model.put_back(shared)
        if self._model.changed(shared, self._model.shared):
            return self._one_by_one(numbers, shared, test)
        return results

    def _one_by_one(
        self, numbers: Sequence[int], shared: Tensors, test: Callable[[int], UserResult]
    ) -> list[UserResult]:  # fmt: skip
        self._model.put_back(shared)
        self._model.load({name: shared[name] for name in self._model.shared})
        return self._evaluation.run(numbers, shared, test)
