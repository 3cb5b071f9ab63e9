"""The shared parameters, as simulators set and read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from protos.codec import Tensors, TensorSpec
from protos.errors import AlreadyDone, Forbidden, WrongState
from protos.gate import caller_rank
from protos.shared_arrays import MemoryHandle
from scheduler.rules.layers import Layers
from scheduler.rules.samplers import Round
from scheduler.service.live_state import LiveState, check_near
from scheduler.service.notifier import Notifier


class ParamCalls:
    """What simulators do with the shared parameters, but for the rounds.

    Args:
        live: the state.
        notifier: makes checkpoints.
        on_initial: told when the initial parameters are there, shared and frozen ones.
    """

    def __init__(self, live: LiveState, notifier: Notifier, on_initial: Callable[[Tensors, Tensors], None]) -> None:
        self._live, self._run = live, live.run
        self._notifier, self._on_initial = notifier, on_initial
        self._streams: dict[int, bool] = {}
        self._group: tuple[int, ...] | None = None

    def set_initial(
        self, params: Tensors, private: Sequence[str], layers: Layers | None = None, frozen: Tensors | None = None
    ) -> None:
        """See `GlobalModel.set_initial`."""
        with self._live.held() as state:
            first = self._run.ranks[0]
            if caller_rank() not in (None, first):
                raise Forbidden(f"rank {caller_rank()} sets the initial parameters, which rank {first} does")
            state.model.set_initial(params, private, layers, frozen)
            if self._notifier.saves:
                state.model.make_room()
            self._on_initial(params, frozen or {})
            self._run.wake()

    def choose_exchange(self, rank: int, *, streams: bool) -> tuple[int, ...]:
        """Returns, when all simulators have told how they reach the parameters, who exchanges: `form_group`."""
        with self._live.turn(rank) as state:
            if rank in self._streams:
                raise AlreadyDone(f"rank {rank} has already told how it reaches the parameters")
            state.check_unbegun()
            self._streams[rank] = streams
            if len(self._streams) == len(self._run.ranks):
                self._run.wait(lambda: state.model.params is not None)
                self._group = state.form_group([r for r in self._run.ranks if self._streams[r]])
                self._run.wake()
            self._run.wait(lambda: self._group is not None)
            return self._group or ()

    def get(self, rank: int, step: int, *, part: bool = False) -> Tensors:
        """The shared parameters before round `step`, or a simulator's part of them, waiting until they are made."""
        with self._live.turn(rank) as state:
            check_near(state, step, state.plan.steps)
            self._run.wait(lambda: state.model.params is not None and state.step >= step)
            if state.step != step:
                raise WrongState(f"the parameters before round {step} are gone: round {state.step} is due")
            return state.part(rank) if part else state.model.need_params()

    def frozen(self, rank: int) -> Tensors:
        """The frozen parameters, waiting until they are there."""
        with self._live.turn(rank) as state:
            self._run.wait(lambda: state.model.params is not None)
            return state.model.frozen

    def memory(self, rank: int) -> MemoryHandle:
        """See `GlobalModel.memory`; waits until the initial parameters are there."""
        with self._live.turn(rank) as state:
            self._run.wait(lambda: state.model.params is not None)
            return state.model.memory()

    def final(self) -> Tensors:
        """The shared parameters as they are, and the frozen ones."""
        with self._run:
            model = None if self._live.state is None else self._live.state.model
            return {} if model is None or model.params is None else {**model.params, **model.frozen}

    def check_names(self, names: Sequence[str]) -> None:
        """Raises Forbidden if one is private."""
        with self._live.held() as state:
            state.model.check_names(names)

    def push_specs(self, rank: int, at: Round) -> dict[str, TensorSpec]:
        """See `RoundState.push_specs`."""
        with self._live.held() as state:
            return state.push_specs(rank, at)

    def specs(self) -> dict[str, TensorSpec] | None:
        """What the shared parameters look like; None before there are any."""
        with self._live.held() as state:
            return state.model.specs() if state.model.params is not None else None
