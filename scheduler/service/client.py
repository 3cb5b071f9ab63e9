"""What a simulator uses to talk to the scheduler."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from protos.channel import Caller
from protos.codec import Array, Tensors, assemble, specs, tensor_chunks
from protos.errors import FLError
from protos.gate import Keys
from protos.shared_arrays import MemoryHandle
from protos.stubs import scheduler_server_pb2 as pb
from protos.stubs import scheduler_server_pb2_grpc as pb_grpc
from scheduler.rules.layers import Layers
from scheduler.rules.metrics import Pair, UserResult
from scheduler.rules.samplers import Round
from scheduler.service.layer_messages import layers_to_messages
from scheduler.service.messages import (
    Layout,
    SimulatorInfo,
    end_from_message,
    handle_from_message,
    handle_to_message,
    info_from_message,
    info_to_message,
    key_to_message,
    sample_request,
    segment_from_message,
    segment_to_message,
    shares_from_messages,
    stage_from_message,
    stop_from_message,
    test_request,
)
from scheduler.service.reports import report_head, report_tail
from scheduler.service.user_messages import users_to_messages, weights_to_messages
from scheduler.state.checkpoints import Offer, Segment
from scheduler.state.plan import Stage
from scheduler.state.read_users import ReadUsers
from scheduler.state.rounds import RoundEnd, Share, Timings
from scheduler.state.stopping import Stop


class SchedulerClient:
    """A simulator's connection to the global scheduler.

    Every method raises the `FLError` that the scheduler answered, `PeerLost` if it
    is gone and `RunEnded` if the run has failed elsewhere.

    Args:
        address: of the scheduler's server.
        keys: of this simulator.
    """

    def __init__(self, address: str, keys: Keys) -> None:
        self._caller = Caller(address, "the scheduler (rank 0)", 0, keys)
        self._stub = pb_grpc.SchedulerServerStub(self._caller.channel)
        self._rank = keys.rank

    def close(self) -> None:
        """Closes the connection."""
        self._caller.close()

    # -- joining and leaving ---------------------------------------------------

    def register(self, info: SimulatorInfo) -> Layout:
        """Joins the run; returns when all simulators have."""
        layout = self._caller.call(self._stub.Register, info_to_message(info))
        return Layout(tuple(info_from_message(i) for i in layout.simulators), tuple(layout.days))

    def exchange(self, key: str, payload: bytes) -> dict[int, bytes]:
        """Posts bytes; returns everybody's, by rank, when all have posted: a barrier."""
        request = pb.ExchangeRequest(rank=self._rank, key=key, payload=payload)
        return {reply.rank: reply.payload for reply in self._caller.stream(self._stub.Exchange, request)}

    def watch(
        self, on_end: Callable[[FLError | None], None], on_stop: Callable[[Stop], None] = lambda stop: None
    ) -> None:
        """Watches the run from a thread of its own; returns when the scheduler knows this simulator lives.

        Args:
            on_end: called once, with None when the run is over, else with why it failed.
            on_stop: called if the run stops before its last round; `on_end` comes after this process only.
        """
        replies = self._caller.stream(self._stub.Watch, pb.WatchRequest(rank=self._rank))
        next(replies)

        def follow() -> None:
            try:
                for reply in replies:
                    on_stop(stop_from_message(reply.stop))
            except FLError as error:
                on_end(error)
            else:
                on_end(None)

        threading.Thread(target=follow, name="watch", daemon=True).start()

    def report_failure(self, message: str) -> None:
        """Fails the run for all."""
        self._caller.call(self._stub.ReportFailure, pb.Failure(rank=self._rank, message=message), timeout=3.0)

    def request_stop(self, reason: str) -> None:
        """Has the run stop for all after the round that is under way; returns at once."""
        self._caller.call(self._stub.RequestStop, pb.StopRequest(rank=self._rank, reason=reason), timeout=3.0)

    def exit(self) -> None:
        """Leaves the run; of one that stops early, returns when all are done and its checkpoint is on disk."""
        self._caller.call(self._stub.Exit, pb.SimulatorRank(rank=self._rank))

    def next_stages(self, step: int) -> list[Stage]:
        """What comes next, when this simulator is done with `step` rounds of the run; see `Plan.next_stages`."""
        reply = self._caller.call(self._stub.NextStages, pb.PlanRequest(rank=self._rank, step=step))
        return [stage_from_message(stage) for stage in reply.stages]

    # -- users -------------------------------------------------------------------

    def update_user_inst_num(
        self, date: str, split: str, counts: Mapping[str, int], weights: Mapping[str, float] | None = None
    ) -> list[str]:
        """Tells the users of a day this simulator has read; returns when all have told theirs.

        Args:
            date: the day.
            split: "train" or "test".
            counts: uid -> examples.
            weights: uid -> weight, of those of whom it has read one piece; see `DayUsers`.

        Returns:
            Users whose weights this simulator has to tell with `update_user_weights`.
        """
        users = ReadUsers(dict(counts), dict(weights or {}))
        told = users_to_messages(self._rank, date, split, users)
        return [uid for part in self._caller.stream(self._stub.UpdateUserInstNum, told) for uid in part.uids]

    def update_user_weights(self, date: str, weights: Mapping[str, float]) -> None:
        """Tells the weights of users, uid -> weight, that `update_user_inst_num` has asked for."""
        self._caller.call(self._stub.UpdateUserWeights, weights_to_messages(self._rank, date, weights))

    def sample_user_list(self, at: Round) -> Share:
        """This simulator's share of the round's cohort, whatever the run's sampler."""
        return self._share(self._stub.SampleUsersToTrain, at)

    def uniform_sample_user_list(self, at: Round) -> Share:
        """As `sample_user_list`, named as FL-mobile's users know it."""
        return self.sample_user_list(at)

    def hash_sample_user_list(self, at: Round) -> Share:
        """The share of a round of the hash sampler; WrongState if the run has another."""
        return self._share(self._stub.SampleUsersWithHash, at)

    def fixed_sample_user_list(self, at: Round) -> Share:
        """The share of a round of a plan; WrongState if the run has no plan."""
        return self._share(self._stub.FixedUsersToTrain, at)

    def begin_sample_user_lists(self, at: Round, rounds: int) -> Callable[[], dict[int, Share]]:
        """Asks for the shares of consecutive rounds of a day without waiting for them.

        Args:
            at: the first of them.
            rounds: how many, 1 to `coming_rounds.MAX_AHEAD`.

        Returns:
            What waits for the shares and gives them, by step.
        """
        messages = self._caller.begin(self._stub.SampleUsersToTrain, sample_request(self._rank, at, rounds))
        return lambda: shares_from_messages(messages)

    def test_sample_user_list(self, at: Round, together: int = 0) -> Share:
        """This simulator's share of the users to test, in groups if `together` is not 0."""
        replies = self._caller.stream(self._stub.SampleUsersToTest, test_request(self._rank, at, together))
        return shares_from_messages(replies)[at.step]

    def _share(self, method: Callable[..., Iterator[pb.Assignment]], at: Round) -> Share:
        replies = self._caller.stream(method, sample_request(self._rank, at, 1))
        return shares_from_messages(replies)[at.step]

    # -- parameters ----------------------------------------------------------------

    def choose_exchange(self, *, streams: bool) -> tuple[int, ...]:
        """Tells how this simulator reaches the parameters; returns when all have.

        Args:
            streams: not in the memory of the scheduler's machine.

        Returns:
            Ranks of the simulators that exchange among themselves; none if each deals with the scheduler alone.
        """
        return tuple(self._caller.call(self._stub.ChooseExchange, pb.Transport(rank=self._rank, streams=streams)).ranks)

    def get_part(self, step: int, into: Mapping[str, Array]) -> Tensors:
        """As `get_global_params`, of this simulator's part only, flat; see `parts`."""
        request = pb.GetGlobalParamsRequest(rank=self._rank, step=step, part=True)
        return assemble(self._caller.stream(self._stub.GetGlobalParams, request), specs(into), into)

    def get_global_params(self, step: int, into: Mapping[str, Array] | None = None) -> Tensors:
        """The shared parameters before round `step` of the run; waits until they are made.

        Args:
            step: 0 for the initial ones.
            into: arrays to write them to; made if None.
        """
        request = pb.GetGlobalParamsRequest(rank=self._rank, step=step)
        return assemble(self._caller.stream(self._stub.GetGlobalParams, request), into=into)

    def get_frozen_params(self) -> Tensors:
        """The frozen parameters; waits until they are there."""
        request = pb.GetGlobalParamsRequest(rank=self._rank, frozen=True)
        return assemble(self._caller.stream(self._stub.GetGlobalParams, request))

    def update_global_params(
        self,
        params: Mapping[str, Array],
        private: Sequence[str],
        layers: Layers | None = None,
        frozen: Mapping[str, Array] | None = None,
    ) -> None:
        """Sets the initial shared parameters and the frozen ones; tells what is private, and the model's layers."""
        held = frozen or {}

        def messages() -> Iterator[pb.ParamsMessage]:
            yield pb.ParamsMessage(private_names=pb.PrivateNames(names=private))
            if layers is not None:
                yield from layers_to_messages(layers)
            if held:
                yield pb.ParamsMessage(frozen_names=pb.PrivateNames(names=list(held)))
            for chunk in tensor_chunks({**params, **held}):
                yield pb.ParamsMessage(chunk=chunk)

        self._caller.call(self._stub.UpdateGlobalParams, messages())

    def replace_global_params(
        self, at: Round, results: Sequence[UserResult], timings: Callable[[], Timings], params: Mapping[str, Array]
    ) -> None:
        """Sets the shared parameters after a round that was trained without federation."""
        parts = (pb.ParamsMessage(chunk=chunk) for chunk in tensor_chunks(params))
        self._caller.call(self._stub.UpdateGlobalParams, self._params_messages(at, results, timings, parts))

    def fedavg_update(
        self,
        at: Round,
        results: Sequence[UserResult],
        timings: Callable[[], Timings],
        sums: Mapping[str, Array],
    ) -> RoundEnd:
        """Pushes this simulator's exact sums of weighted deltas; returns when the round is over.

        Args:
            at: the round.
            results: of all users of the share.
            timings: called when the last tensor is on its way.
            sums: int64 by name, see `aggregation`; empty if the share was.  Of a simulator of a group, the sums of
                the whole group in its part.
        """
        parts = (pb.ParamsMessage(chunk=chunk) for chunk in tensor_chunks(sums))
        messages = self._params_messages(at, results, timings, parts)
        return end_from_message(self._caller.call(self._stub.FedAvgUpdate, messages))

    def fedavg_update_in_memory(
        self, at: Round, results: Sequence[UserResult], timings: Timings, sums: Sequence[MemoryHandle]
    ) -> RoundEnd:
        """As `fedavg_update`, for a scheduler on this machine: says where the shards' sums are.

        They must stay as they are until the next round.
        """
        reports = [*report_head(self._rank, at, results), report_tail(timings)]
        request = pb.MemoryPush(reports=reports, sums=[handle_to_message(handle) for handle in sums])
        return end_from_message(self._caller.call(self._stub.FedAvgUpdateInMemory, request))

    def end_round(self, at: Round) -> RoundEnd:
        """Returns when a round is over."""
        return end_from_message(self._caller.call(self._stub.EndRound, key_to_message(self._rank, at)))

    def shared_memory(self) -> MemoryHandle:
        """Where the shared parameters are in the memory of the scheduler's machine; waits until they are made."""
        return handle_from_message(self._caller.call(self._stub.GetSharedMemory, pb.SimulatorRank(rank=self._rank)))

    def _params_messages(
        self,
        at: Round,
        results: Sequence[UserResult],
        timings: Callable[[], Timings],
        parts: Iterator[pb.ParamsMessage],
    ) -> Iterator[pb.ParamsMessage]:
        for head in report_head(self._rank, at, results):
            yield pb.ParamsMessage(report=head)
        yield from parts
        yield pb.ParamsMessage(report=report_tail(timings()))

    # -- checkpoints ---------------------------------------------------------------

    def report_segments(self, step: int, segments: Sequence[Segment]) -> None:
        """Tells which files hold this simulator's private parameters as they were before round `step`."""
        parts = [segment_to_message(segment) for segment in segments]
        self._caller.call(self._stub.ReportSegments, pb.SegmentReport(rank=self._rank, step=step, segments=parts))

    def get_checkpoints(self) -> list[Offer]:
        """The checkpoints the run may go on from, newest first."""
        reply = self._caller.call(self._stub.GetCheckpoints, pb.SimulatorRank(rank=self._rank))
        return [Offer(c.step, c.date, tuple(segment_from_message(s) for s in c.segments)) for c in reply.checkpoints]

    def restore(self, step: int) -> None:
        """Goes on from the checkpoint of `step`; returns when all simulators have chosen it."""
        self._caller.call(self._stub.Restore, pb.RestoreRequest(rank=self._rank, step=step))

    # -- evaluation ------------------------------------------------------------------

    def update_test_metrics(
        self, at: Round, results: Sequence[UserResult], timings: Timings
    ) -> tuple[int, dict[str, Pair]]:
        """Reports an evaluation; returns users and metrics of all simulators when all have reported."""

        def messages() -> Iterator[pb.RoundReport]:
            yield from report_head(self._rank, at, results)
            yield report_tail(timings)

        summary = self._caller.call(self._stub.UpdateTestMetrics, messages())
        return summary.users, {name: (pair.sum, pair.count) for name, pair in summary.metrics.items()}
