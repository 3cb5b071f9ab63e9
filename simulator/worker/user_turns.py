"""Users' turns on the model of this shard: what is theirs goes in, the trainer plays, what is kept comes out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protos.codec import Tensors
from protos.errors import BadInput, NotFound
from scheduler.rules.algorithm import personalises
from scheduler.rules.local_optimizers import LocalRule, RuleState
from scheduler.rules.metrics import PERSONAL, Pair
from scheduler.rules.samplers import Round
from scheduler.rules.streams import stream_key
from scheduler.state.rounds import TEST, TRAIN
from simulator.contracts import Examples, Trainer
from simulator.shards import jobs
from simulator.users.data_client import DataClient
from simulator.worker.answers import checked, is_better, nobodys
from simulator.worker.dtype_hint import explain_float64
from simulator.worker.global_switches import seed_everything
from simulator.worker.local_turn import LocalTurn
from simulator.worker.model_state import ModelState
from simulator.worker.private_start import PrivateStart
from simulator.worker.round_arrays import RoundArrays, read_only
from simulator.worker.turn import NOTHING, EvaluatedUser, OnStep, Turn
from simulator.worker.user_state import Loaded, UserState

# Trainers with other numbers that are kept: an algorithm may ask for another one for each user.
_OTHERS = 64


class UserTurns:
    """Plays turns.

    Args:
        settings: of the shard.
        model: of the shard.
        state: what users keep beside private parameters.
        start: private parameters of users who have not trained yet.
        data: where users' parameters are.
    """

    def __init__(
        self, settings: jobs.ShardSettings, model: ModelState, state: UserState, start: PrivateStart, data: DataClient
    ) -> None:
        self._trainer, self._algorithm, self._filters = settings.trainer, settings.algorithm, settings.filters
        self._seed, self._reader = settings.seed, type(settings.reader).__name__
        self._model, self._state, self._start, self._data = model, state, start, data
        self._keeps = bool(model.private or state.specs)
        self._rule: LocalRule | None = getattr(settings.trainer, "local_rule", None)
        self._with: dict[tuple[tuple[str, int], ...], Trainer] = {}
        self._in_round: tuple[int, Trainer] | None = None

    def load(self, uid: str, at: Round, examples: Examples, shared: Tensors | None) -> Loaded:
        """Puts a user's private parameters into the model, from which the last user is gone.

        Args:
            uid: the user.
            at: the round.
            examples: of the user.
            shared: see `ModelState.put_back`.
        """
        self._model.put_back(shared)
        kept = self._data.get_param_by_uid(uid, at.step) if self._keeps else None
        private, states = self._state.split(kept)
        if self._model.private:
            self._model.load(self._start.of(uid) if private is None else private)
        return Loaded(uid, at, examples, kept is not None, states)

    def train(self, user: Loaded, weight: float, begin: RoundArrays) -> tuple[dict[str, Pair], LocalTurn]:
        """A user's turn with the algorithm and the filters; returns metrics, and what it sends."""
        local = self._local(TRAIN, user, weight, begin, lambda: user.examples)
        metrics = checked(type(self._algorithm).__name__, self._algorithm.train(local))
        for number, each in enumerate(self._filters, 1):
            each.on_user(local.at_piece(number))
            if each.guards and local.sends_more:
                raise BadInput(
                    f"uid {user.uid!r}: {type(self._algorithm).__name__} sends {local.sends_more}, which "
                    f"{type(each).__name__} does not guard; use an algorithm that sends the model alone"
                )
        return metrics, local

    def train_plainly(self, user: Loaded) -> dict[str, Pair]:
        """A user's turn with the trainer alone."""
        metrics, _ = _Plays(self, TRAIN, user, lambda: user.examples).train(user.examples, "", None, None, NOTHING)
        return metrics

    def keep(self, user: Loaded) -> None:
        """Stores what the user keeps, as trained in this round."""
        if self._keeps:
            private = {name: self._model.read(name) for name in self._model.private}
            kept = self._state.join(user.uid, private, user.states)
            self._data.set_param_by_uid(user.uid, user.at.step, kept)

    def test(self, user: Loaded, begin: RoundArrays, trained_on: str) -> dict[str, Pair]:
        """Metrics of a user with the global model, and with its own where the algorithm makes one.

        Args:
            user: whose parameters are in the model.
            begin: what the model is.
            trained_on: the day of its training data.
        """
        training = self._training_of(user.uid, user.examples, trained_on)
        metrics = self._evaluate(user, training)
        if not personalises(self._algorithm):
            return metrics
        # Anew: what the first test has done to the model must not show in the second.
        mine = self.load(user.uid, user.at, user.examples, begin.model)
        self._model.load(begin.model)
        local = self._local(TEST, mine, 0.0, begin, training)
        self._algorithm.personalise(local)
        self._model.put_back(None)
        # Its own parameters may be all that makes the model its own.
        own = self._evaluate(mine, training) if local.acted else dict(metrics)
        own["helps"] = is_better(self._trainer, own, metrics), 1.0
        return {
            **metrics,
            **{f"{PERSONAL}{name}": pair for name, pair in own.items()},
        }

    def bring(self, at: Round, users: Mapping[str, Examples], trained_on: str) -> list[EvaluatedUser]:
        """Users who are tested in one go, with what is theirs.

        Args:
            at: which test.
            users: their examples by uid.
            trained_on: the day of their training data.
        """
        return [self._bring(at, uid, examples, trained_on) for uid, examples in users.items()]

    def test_together(self, at: Round, users: Sequence[EvaluatedUser], shared: Tensors) -> list[dict[str, Pair]]:
        """Metrics of users who are tested in one go, in their order.

        The global generators are seeded from all their uids, so it matters who meets: that is the plan's
        alone.  In the places of private parameters the model holds NaN, since it can hold one user's only.

        Args:
            at: which test.
            users: see `bring`.
            shared: the round's shared parameters; the model holds them.

        Raises:
            BadInput: not one dictionary of metrics a user.
        """
        self._model.put_back(shared)
        self._model.load({name: nobodys(self._model.specs[name]) for name in self._model.private})
        uids = [user.uid for user in users]
        seed_everything(stream_key(self._seed, TEST, at.date, at.round, "together", *uids, "global"))
        self._model.model.eval()
        trainer: Any = self._trainer
        answers, who = trainer.evaluate_users(self._model.model, users), f"{type(trainer).__name__}.evaluate_users"
        if not isinstance(answers, Sequence) or len(answers) != len(users):
            told = f"{len(answers)}" if isinstance(answers, Sequence) else repr(answers)[:200]
            raise BadInput(f"{who} must return a list of metrics, one for each of {len(users)} users, not {told}")
        return [checked(who, metrics) for metrics in answers]

    # -- inside ------------------------------------------------------------------

    def _bring(self, at: Round, uid: str, examples: Examples, trained_on: str) -> EvaluatedUser:
        private: Tensors = {}
        if self._model.private:
            kept, _ = self._state.split(self._data.get_param_by_uid(uid, at.step))
            private = self._start.of(uid) if kept is None else kept
        mine = {name: read_only(value) for name, value in private.items()}
        key = stream_key(self._seed, TEST, at.date, at.round, uid)
        training = self._training_of(uid, examples, trained_on)
        return EvaluatedUser(uid, at.date, at.round, key, training, examples=examples, private=mine)

    def _training_of(self, uid: str, examples: Examples, trained_on: str) -> Callable[[], Examples]:
        """Fetches a user's training examples of a day, in a test; none of the form of its test's if it has none."""

        def training() -> Examples:
            try:
                return self._data.get_data_by_uid(uid, trained_on, TRAIN)
            except NotFound:
                return {name: rows[:0] for name, rows in examples.items()}

        return training

    def _local(
        self, phase: str, user: Loaded, weight: float, begin: RoundArrays, training: Callable[[], Examples]
    ) -> LocalTurn:
        return LocalTurn(
            user.uid, user.at.date, user.at.round, phase, seed=self._seed, weight=weight, model=self._model,
            begin=begin, states=user.states, known=user.known, examples=training,
            trainer=self._trainer_of(phase, user.at), plays=_Plays(self, phase, user, training),
        )  # fmt: skip

    def _evaluate(self, user: Loaded, training: Callable[[], Examples]) -> dict[str, Pair]:
        return self.play_test(TEST, user.at, user.examples, self.turn(TEST, user, training))

    def play_training(
        self, phase: str, user: Loaded, examples: Examples, turn: Turn, epochs: int | None, batch_size: int | None
    ) -> dict[str, Pair]:
        """Has the trainer train; returns the metrics."""
        self._model.model.train()
        trainer = self._with_numbers(self._trainer_of(phase, user.at), epochs=epochs, batch_size=batch_size)
        if self._rule is None:
            metrics = self._play(trainer.train_user, examples, turn)
        else:
            state = RuleState(user.states[-1] if self._rule.keep else {})
            vars(trainer)["rule_state"] = state
            try:
                metrics = self._play(trainer.train_user, examples, turn)
            finally:
                # It is this user's; what a test trains begins with nothing.
                del vars(trainer)["rule_state"]
            if not state.asked:
                raise BadInput(
                    f"{type(trainer).__name__}.train_user makes no step with what self.make_optimizer gives, so that "
                    f"--local-optimizer {self._rule!r} would do nothing; leave it out"
                )
        self._model.check_structure()
        return metrics

    def play_test(self, phase: str, at: Round, examples: Examples, turn: Turn) -> dict[str, Pair]:
        """Has the trainer test; returns the metrics."""
        self._model.model.eval()
        return self._play(self._trainer_of(phase, at).evaluate_user, examples, turn)

    def turn(
        self, phase: str, user: Loaded, training: Callable[[], Examples], part: str = "", on_step: OnStep = NOTHING
    ) -> Turn:
        """What the trainer is told of a user, with the generators seeded for it."""
        parts: list[str | int] = [phase, user.at.date, user.at.round, user.uid, *([part] if part else [])]
        seed_everything(stream_key(self._seed, *parts, "global"))
        key = stream_key(self._seed, *parts)
        return Turn(user.uid, user.at.date, user.at.round, key, training, on_step)

    def _play(self, method: Callable[..., Any], examples: Examples, turn: Turn) -> dict[str, Pair]:
        """A user's turn in the trainer; returns the metrics."""
        try:
            metrics = method(self._model.model, examples, turn)
        except Exception as error:
            told = explain_float64(error, turn.uid, examples, self._model.specs, self._reader)
            if told is None:
                raise
            raise told from error
        return checked(type(self._trainer).__name__, metrics)

    def _trainer_of(self, phase: str, at: Round) -> Trainer:
        """The trainer with the rate of a round; in a test, with that of the round before it."""
        schedule, rate = (getattr(self._trainer, name, None) for name in ("lr_by_round", "lr"))
        if schedule is None or rate is None:
            return self._trainer
        step = at.step if phase == TRAIN else max(0, at.step - 1)
        if self._in_round is None or self._in_round[0] != step:
            changed: Any = copy.copy(self._trainer)
            changed.lr = rate * schedule.at(step)
            self._in_round = step, changed
            # Those were made for another round.
            self._with.clear()
        return self._in_round[1]

    def _with_numbers(self, trainer: Trainer, **numbers: int | None) -> Trainer:
        """A trainer, for another number of epochs or another size of batches; None leaves one as it is."""
        others = {
            name: value for name, value in numbers.items()
            if value is not None and value != getattr(trainer, name, None)
        }  # fmt: skip
        for name in others:
            if not hasattr(trainer, name):
                raise BadInput(f"{type(trainer).__name__} has no {name!r}, which this algorithm changes")
        if not others:
            return trainer
        key = tuple(others.items())
        if key not in self._with:
            if len(self._with) >= _OTHERS:
                self._with.clear()
            changed: Any = copy.copy(trainer)
            vars(changed).update(others)
            self._with[key] = changed
        return self._with[key]


@dataclass(frozen=True)
class _Plays:
    """See `turn.Plays`; of one user's turn."""

    turns: UserTurns
    phase: str
    user: Loaded
    training: Callable[[], Examples]

    def train(
        self, examples: Examples, part: str, epochs: int | None, batch_size: int | None, on_step: OnStep
    ) -> tuple[dict[str, Pair], Turn]:
        turn = self.turns.turn(self.phase, self.user, self.training, part, on_step)
        return self.turns.play_training(self.phase, self.user, examples, turn, epochs, batch_size), turn

    def evaluate(self, examples: Examples, part: str) -> dict[str, Pair]:
        turn = self.turns.turn(self.phase, self.user, self.training, part)
        return self.turns.play_test(self.phase, self.user.at, examples, turn)
