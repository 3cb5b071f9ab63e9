"""The gRPC face of the scheduler: each method is a few lines over `Coordinator`."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import grpc

from protos.answers import confirm_end
from protos.certificates import Credentials
from protos.channel import make_server
from protos.codec import TensorAssembler, tensor_chunks
from protos.errors import BadInput
from protos.gate import Gate
from protos.shared_arrays import MemoryHandle, SharedArrays
from protos.stubs import scheduler_server_pb2 as pb
from protos.stubs import scheduler_server_pb2_grpc as pb_grpc
from protos.stubs import tensor_pb2
from scheduler.rules.exact_sum import Sums, sum_specs
from scheduler.rules.metrics import reduce_metrics
from scheduler.rules.samplers import Round
from scheduler.service.coordinator import Coordinator
from scheduler.service.layer_messages import layers_from_messages
from scheduler.service.messages import (
    Layout,
    end_to_message,
    handle_from_message,
    handle_to_message,
    info_from_message,
    info_to_message,
    segment_from_message,
    segment_to_message,
    shares_to_messages,
    stage_to_message,
    stop_to_message,
)
from scheduler.service.reports import ReportReader
from scheduler.service.user_messages import names_to_messages, users_from_messages, weights_from_messages
from scheduler.state.bounds import check_private_names
from scheduler.state.frozen import split_frozen
from scheduler.state.rounds import TEST, TRAIN

logger = logging.getLogger(__name__)

# Calls of one simulator that may be under way at once: its watch, MAX_WAITING that wait, uploads, a failure report.
THREADS_PER_SIMULATOR = 8


def start_scheduler_server(
    coordinator: Coordinator, where: str, simulators: int, gate: Gate, credentials: Credentials | None = None
) -> tuple[grpc.Server, str]:
    """Starts the scheduler's server; returns it and its address."""
    servicer = SchedulerServicer(coordinator)
    return make_server(
        lambda server: pb_grpc.add_SchedulerServerServicer_to_server(servicer, server),
        where,
        threads=THREADS_PER_SIMULATOR * simulators + 4,
        gate=gate,
        credentials=credentials,
        on_crash=servicer.crashed,
    )


class SchedulerServicer(pb_grpc.SchedulerServerServicer):  # type: ignore[misc]
    """See protos/scheduler_server.proto."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._do = coordinator
        self._maps: dict[int, dict[MemoryHandle, Sums]] = {}
        coordinator.at_close(self._maps.clear)

    def crashed(self, error: BaseException) -> None:
        """An exception in a method ends the run."""
        self._do.fail("the scheduler (rank 0) failed:\n" + "".join(traceback.format_exception(error)).rstrip())

    def Register(self, request: pb.SimulatorInfo, context: grpc.ServicerContext) -> pb.Layout:  # noqa: N802, D102
        return _layout_message(self._do.register(info_from_message(request)))

    def Exchange(self, request: pb.ExchangeRequest, context: Any) -> Iterator[pb.ExchangeReply]:  # noqa: N802, D102
        for rank, payload in self._do.exchange(request.rank, request.key, request.payload).items():
            yield pb.ExchangeReply(rank=rank, payload=payload)

    def Watch(self, request: pb.WatchRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchReply]:  # noqa: N802, D102
        self._do.note_watch(request.rank)
        if not context.add_callback(lambda: self._do.drop(request.rank)):
            self._do.drop(request.rank)
        yield pb.WatchReply()
        stop = self._do.watch()
        if stop is not None:
            yield pb.WatchReply(stop=stop_to_message(stop))
            self._do.watch_stop(request.rank)

    def RequestStop(self, request: pb.StopRequest, context: grpc.ServicerContext) -> pb.Empty:  # noqa: N802, D102
        self._do.ask_stop(request.rank, request.reason)
        return pb.Empty()

    def ReportFailure(self, request: pb.Failure, context: grpc.ServicerContext) -> pb.Empty:  # noqa: N802, D102
        self._do.report_failure(request.rank, request.message)
        return pb.Empty()

    def NextStages(self, request: pb.PlanRequest, context: Any) -> pb.Stages:  # noqa: N802, D102
        return pb.Stages(stages=map(stage_to_message, self._do.rounds.next_stages(request.rank, request.step)))

    def UpdateUserInstNum(  # noqa: N802, D102
        self, request: Iterable[pb.UserInstNum], context: Any
    ) -> Iterator[pb.UserNames]:
        told = users_from_messages(request, self._do.rounds.check_teller)
        confirm_end(context)
        yield from names_to_messages(self._do.rounds.add_users(*told))

    def UpdateUserWeights(self, request: Iterable[pb.UserWeights], context: Any) -> pb.Empty:  # noqa: N802, D102
        told = weights_from_messages(request, self._do.rounds.check_weigher)
        confirm_end(context)
        self._do.rounds.add_weights(*told)
        return pb.Empty()

    def SampleUsersToTrain(self, request: pb.SampleRequest, context: Any) -> Iterator[pb.Assignment]:  # noqa: N802, D102
        return self._train_shares(request, None)

    def SampleUsersWithHash(self, request: pb.SampleRequest, context: Any) -> Iterator[pb.Assignment]:  # noqa: N802, D102
        return self._train_shares(request, "hash")

    def FixedUsersToTrain(self, request: pb.SampleRequest, context: Any) -> Iterator[pb.Assignment]:  # noqa: N802, D102
        return self._train_shares(request, "fixed")

    def _train_shares(self, request: pb.SampleRequest, kind: str | None) -> Iterator[pb.Assignment]:
        key = request.key
        at = Round(self._do.rules.seed, key.date, key.round, key.step)
        yield from shares_to_messages(self._do.rounds.train_shares(key.rank, at, request.rounds, kind))

    def SampleUsersToTest(self, request: pb.TestRequest, context: Any) -> Iterator[pb.Assignment]:  # noqa: N802, D102
        key = request.key
        at = Round(self._do.rules.seed, key.date, key.round, key.step)
        yield from shares_to_messages({at.step: self._do.rounds.test_share(key.rank, at, request.together)})

    def GetGlobalParams(  # noqa: N802, D102
        self, request: pb.GetGlobalParamsRequest, context: Any
    ) -> Iterator[tensor_pb2.TensorChunk]:
        if request.frozen:
            yield from tensor_chunks(self._do.params.frozen(request.rank))
        else:
            yield from tensor_chunks(self._do.params.get(request.rank, request.step, part=request.part))

    def ChooseExchange(self, request: pb.Transport, context: Any) -> pb.PeerGroup:  # noqa: N802, D102
        return pb.PeerGroup(ranks=self._do.params.choose_exchange(request.rank, streams=request.streams))

    def UpdateGlobalParams(self, request: Iterable[pb.ParamsMessage], context: Any) -> pb.Empty:  # noqa: N802, D102
        expected = self._do.params.specs()
        tensors, report = TensorAssembler(expected), self._report(TRAIN)
        private: list[str] = []
        frozen: list[str] = []
        arrays: list[pb.ModelArray] = []
        for message in request:
            part = message.WhichOneof("part")
            if part == "chunk":
                self._do.params.check_names([message.chunk.name])
                tensors.add(message.chunk)
            elif part == "report":
                report.add(message.report)
            elif part == "private_names":
                private.extend(message.private_names.names)
                check_private_names(private)
            elif part == "frozen_names":
                frozen.extend(message.frozen_names.names)
                check_private_names(frozen)
            elif part == "model_arrays":
                arrays.extend(message.model_arrays.arrays)
                check_private_names([array.name for array in arrays])
            else:
                raise BadInput("an empty message; parameters come as reports, chunks and names")
        if report.at is None:
            params = tensors.finish()
            confirm_end(context)
            shared, held = split_frozen(params, frozen)
            layers = layers_from_messages(arrays) if arrays else None
            self._do.params.set_initial(shared, private, layers, held)
        else:
            rank, at, results, timings = report.finish()
            self._do.rounds.replace(rank, at, results, timings, tensors.finish())
        return pb.Empty()

    def FedAvgUpdate(self, request: Iterable[pb.ParamsMessage], context: Any) -> pb.RoundEnd:  # noqa: N802, D102
        report, tensors = self._report(TRAIN), TensorAssembler({})
        for message in request:
            part = message.WhichOneof("part")
            if part == "chunk":
                if report.at is None:
                    raise BadInput("a tensor came before the report that says whose it is")
                self._do.params.check_names([message.chunk.name])
                tensors.add(message.chunk)
            elif part == "report":
                begins = report.at is None
                report.add(message.report)
                if begins and report.at is not None:
                    tensors = TensorAssembler(self._do.params.push_specs(report.rank, report.at))
            else:
                raise BadInput(f"a push carries reports and chunks, not {part}")
        rank, at, results, timings = report.finish()
        sums = tensors.finish()
        self._do.rounds.push(rank, at, results, timings, [Sums.whole(sums)] if sums else [])
        return end_to_message(self._do.rounds.end(rank, at))

    def FedAvgUpdateInMemory(self, request: pb.MemoryPush, context: Any) -> pb.RoundEnd:  # noqa: N802, D102
        report = self._report(TRAIN)
        for message in request.reports:
            report.add(message)
        rank, at, results, timings = report.finish()
        sums = self._mapped(rank, [handle_from_message(handle) for handle in request.sums])
        self._do.rounds.push(rank, at, results, timings, sums)
        # The caller's shards read the next parameters where these are: not before they are made.
        return end_to_message(self._do.rounds.end(rank, at))

    def EndRound(self, request: pb.RoundKey, context: Any) -> pb.RoundEnd:  # noqa: N802, D102
        at = Round(self._do.rules.seed, request.date, request.round, request.step)
        return end_to_message(self._do.rounds.end(request.rank, at))

    def GetSharedMemory(self, request: pb.SimulatorRank, context: Any) -> pb.MemoryHandle:  # noqa: N802, D102
        return handle_to_message(self._do.params.memory(request.rank))

    def _mapped(self, rank: int, handles: list[MemoryHandle]) -> list[Sums]:
        """The sums of a simulator's shards on this machine; those of its last push are mapped already."""
        held = self._maps.get(rank)
        if held is not None and list(held) == handles:
            return list(held.values())
        if len(set(handles)) != len(handles):
            raise BadInput(f"rank {rank} names the same memory twice")
        self._do.check_lanes(rank, len(handles))
        specs, known = self._do.params.specs() or {}, self._maps.get(rank, {})
        for handle in handles:
            if any(handle in theirs for other, theirs in self._maps.items() if other != rank):
                raise BadInput(f"rank {rank} names memory of another simulator's shards")
        maps = {h: known.get(h) or Sums.of(SharedArrays.open(h, sum_specs(specs)).arrays, specs) for h in handles}
        if handles:
            self._maps[rank] = maps
        return list(maps.values())

    def _report(self, phase: str) -> ReportReader:
        return ReportReader(self._do.rules.seed, lambda rank, at: self._do.rounds.share_size(rank, at, phase))

    def UpdateTestMetrics(self, request: Iterable[pb.RoundReport], context: Any) -> pb.TestSummary:  # noqa: N802, D102
        report = self._report(TEST)
        for message in request:
            report.add(message)
        record = self._do.rounds.report_test(*report.finish())
        metrics = {name: pb.Metric(sum=s, count=c) for name, (s, c) in reduce_metrics(record.results).items()}
        return pb.TestSummary(users=len(record.results), metrics=metrics)

    def ReportSegments(self, request: pb.SegmentReport, context: Any) -> pb.Empty:  # noqa: N802, D102
        self._do.add_segments(request.rank, request.step, [segment_from_message(s) for s in request.segments])
        return pb.Empty()

    def GetCheckpoints(self, request: pb.SimulatorRank, context: Any) -> pb.Checkpoints:  # noqa: N802, D102
        offers = [
            pb.Checkpoint(step=offer.step, date=offer.date, segments=[segment_to_message(s) for s in offer.segments])
            for offer in self._do.offers(request.rank)
        ]
        return pb.Checkpoints(checkpoints=offers)

    def Restore(self, request: pb.RestoreRequest, context: Any) -> pb.Empty:  # noqa: N802, D102
        self._do.restore(request.rank, request.step)
        return pb.Empty()

    def Exit(self, request: pb.SimulatorRank, context: Any) -> pb.Empty:  # noqa: N802, D102
        self._do.leave(request.rank)
        return pb.Empty()


def _layout_message(layout: Layout) -> pb.Layout:
    return pb.Layout(simulators=[info_to_message(info) for info in layout.simulators], days=layout.days)
