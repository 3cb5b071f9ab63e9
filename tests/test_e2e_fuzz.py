"""Mutated messages to a live scheduler and a live data server: the run beside them ends with the bits it has alone.

Every slice of messages has a seed of its own, so a slice that fails can be repeated alone.
"""

import json
import random
import subprocess
import sys
import threading
from collections import Counter
from types import SimpleNamespace

import grpc
import numpy as np
import psutil
import pytest
from deadly_task import ORDERS
from fuzz_server import make_rules
from fuzzing import DAY, RUN_UID, Mutator, speaker
from hostile import SCHEDULER, WAIT, raw_channel
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from leaky_task import LEAK
from running import ROOT, TINY, environment, kill_all, metrics, params, private, read_until, run, same, start
from scheduler_run import background, soon, tell, weights_of
from tiny_task import make_data

from protos.codec import TensorSpec, to_bundle
from protos.gate import Keys
from protos.shared_arrays import SharedArrays, unnamed_file
from scheduler.rules.exact_sum import Sums, sum_specs
from scheduler.rules.metrics import UserResult
from scheduler.rules.samplers import Round
from scheduler.service.client import SchedulerClient
from scheduler.service.messages import SimulatorInfo
from scheduler.state.plan import DayPlan, Plan
from scheduler.state.read_users import ReadUsers
from scheduler.state.round_state import RoundState
from scheduler.state.rounds import Timings
from simulator.users.data_client import DataClient
from simulator.users.store import UserRecord

LEAKY = ROOT / "tests" / "leaky_task.py"
COUNTS = {f"u{i}": i + 1 for i in range(20)}
START = {"w": np.linspace(-1, 1, 5, dtype=np.float32)}
OWN = {"bias": np.array([1.0, 2.0, 3.0], np.float32)}
NO_TIME = Timings()
EXPECTED = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}  # fmt: skip
# Messages of one example; examples of the fast slice and of each slow one.
BATCH, FAST, SLOW, SLICES = 100, 30, 100, 4


def at(step):
    return Round(7, DAY, step + 1, step)


def trained(uid, step):
    """What a user's training gives in a round: exact sums, any deterministic ones."""
    rng = np.random.default_rng([int(uid[1:]), step])
    return rng.integers(-(2**45), 2**45, 5)


def results_of(share):
    return [UserResult(u, n, float(n), {"loss": (1.0, 1.0)}) for u, n in zip(share.uids, share.counts, strict=True)]


def sums_of(share, step):
    return {"w": np.sum([trained(uid, step) for uid in share.uids], axis=0)}


class Beside:
    """A run of two simulators that goes on while the noise does."""

    def __init__(self, scheduler, data, keys):
        self.clients = {rank: SchedulerClient(scheduler, keys[rank]) for rank in (1, 2)}
        self.data = DataClient({1: data}, keys[2], None)
        memory = SharedArrays(unnamed_file("sums"), sum_specs({"w": TensorSpec("float32", (5,))}), create=True)
        self.memory, self.step = memory, 0
        self._stop = threading.Event()

    def both(self, call):
        futures = [background(call, rank, client) for rank, client in self.clients.items()]
        return [future.result(WAIT) for future in futures]

    def start(self):
        infos = {rank: SimulatorInfo(rank, "host", "127.0.0.1:1", 1, (DAY,)) for rank in (1, 2)}
        self.both(lambda rank, client: client.watch(lambda error: None))
        self.both(lambda rank, client: client.register(infos[rank]))
        soon(self.clients[1].update_global_params, START, ["mine"])
        halves = {1: dict(list(COUNTS.items())[::2]), 2: dict(list(COUNTS.items())[1::2])}
        self.both(lambda rank, client: tell(client, halves[rank], DAY))
        record = UserRecord(RUN_UID, DAY, "train", (0, 0), to_bundle(OWN).SerializeToString())
        soon(self.data.send_data, 1, [record])
        for _ in range(3):
            self.play()
        self._playing = background(self._go_on)

    def _go_on(self):
        while not self._stop.is_set():
            self.play()

    def play(self):
        """One round: one simulator streams its sums, the other leaves them in memory."""
        self.both(self._play_share)
        self.step += 1
        bias = OWN["bias"] * self.step
        self.data.set_param_by_uid(RUN_UID, self.step, {"bias": bias})
        assert self.data.get_param_by_uid(RUN_UID, self.step + 1)["bias"].tobytes() == bias.tobytes()
        assert self.data.get_data_by_uid(RUN_UID, DAY, "train")["bias"].tobytes() == OWN["bias"].tobytes()

    def _play_share(self, rank, client):
        share = client.sample_user_list(at(self.step))
        if rank == 1 or not share.uids:
            sums = sums_of(share, self.step) if share.uids else {}
            client.fedavg_update(at(self.step), results_of(share), lambda: NO_TIME, sums)
        else:
            self.memory["sum/w"][:] = sums_of(share, self.step)["w"]
            self.memory["touched/w"][:] = True
            handle = self.memory.handle()
            client.fedavg_update_in_memory(at(self.step), results_of(share), NO_TIME, [handle])

    def pause(self):
        """Ends the rounds; returns the parameters."""
        self._stop.set()
        self._playing.result(WAIT)
        self._stop.clear()
        return soon(self.clients[1].get_global_params, self.step)["w"]

    def go_on(self):
        self._playing = background(self._go_on)

    def close(self):
        self._stop.set()
        for client in self.clients.values():
            client.close()
        self.data.close()


class Alone:
    """The same run without network and noise."""

    def __init__(self):
        rules = make_rules()
        self._state = RoundState(rules, {1: 1, 2: 1}, Plan((DayPlan(DAY, None),), rules.rounds))
        self._state.model.set_initial(START, ["mine"])
        self._state.add_users(1, DAY, "train", ReadUsers(COUNTS, weights_of(COUNTS)))
        self._state.add_users(2, DAY, "train", ReadUsers())

    def after(self, steps):
        """The parameters after so many rounds."""
        while self._state.step < steps:
            step = self._state.step
            for rank in (1, 2):
                share = self._state.train_shares(rank, at(step))[step]
                sums = [Sums.whole(sums_of(share, step))] if share.uids else []
                self._state.push(rank, at(step), results_of(share), NO_TIME, sums)
        return self._state.model.params["w"]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    store = tmp_path_factory.mktemp("fuzz") / "store"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "fuzz_server.py"), str(store)],
        env=environment(), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        scheduler, data, tickets = json.loads(process.stdout.readline())
        shown = {int(rank): Keys(int(rank), dict.fromkeys(range(2), bytes.fromhex(t))) for rank, t in tickets.items()}
        beside = Beside(scheduler, data, shown)
        beside.start()
        yield SimpleNamespace(process=psutil.Process(process.pid), scheduler=scheduler, data=data, keys=shown,
                              beside=beside, alone=Alone(), sent=0)  # fmt: skip
        beside.pause()
        process.stdin.close()
        assert json.loads(process.stdout.readline()) == [None, []]
        assert process.wait(WAIT) == 0
        beside.close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def say(channels, metadata, service, method, messages):
    """Sends one call; returns its status."""
    path, described = f"/{service.full_name}/{method}", service.methods_by_name[method]
    channel, plain = channels[service], len(messages) == 1
    same = {"request_serializer": bytes, "response_deserializer": bytes}
    # On the wire all are streams; the plain call of one message is the fastest for a client.
    make = channel.unary_stream if plain and described.server_streaming else channel.unary_unary if plain else None
    call = (make or channel.stream_stream)(path, **same)
    try:
        answer = call(messages[0] if plain else iter(messages), timeout=WAIT, metadata=metadata)
        if not isinstance(answer, bytes):
            for _ in answer:
                pass
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def noise(live, seed, messages):
    """Sends so many mutated messages; returns how often each status came back."""
    mutator = Mutator(random.Random(seed), {"w": np.arange(5)})
    statuses, sent = Counter(), 0
    with raw_channel(live.scheduler) as scheduler, raw_channel(live.data) as data:
        channels = {service: scheduler if service is SCHEDULER else data for service, _ in mutator._templates}
        while sent < messages:
            service, method, stream = mutator.draw()
            # Mostly as the rank that the messages claim: the others come no further than the gate.
            anybody = mutator.rng.choice(list(live.keys))
            rank = speaker(service, method, stream, 1) if mutator.rng.random() < 0.9 else anybody
            rank = rank if rank in live.keys else anybody
            metadata = live.keys[rank].shown_to(0 if service is SCHEDULER else 1)
            status = say(channels, metadata, service, method, stream)
            # A mutated number may be the next round's, whose parameters are waited for as they should be.
            waits = method == "GetPart" and status is grpc.StatusCode.DEADLINE_EXCEEDED
            assert waits or status in EXPECTED, (seed, method, stream, status)
            statuses[status] += 1
            sent += max(1, len(stream))
            live.sent += max(1, len(stream))
    return statuses


def check_run(live):
    """The run beside has the bits that it has alone, and goes on."""
    params = live.beside.pause()
    assert live.beside.step > 3
    assert params.tobytes() == live.alone.after(live.beside.step).tobytes()
    live.beside.go_on()


def send_slice(live, number, examples):
    """As many examples of a slice's own seed; hypothesis repeats one that fails, and says which."""
    statuses = Counter()

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**64 - 1))
    def send(seed):
        statuses.update(noise(live, f"{number}/{seed}", BATCH))

    before = live.sent
    send()
    while live.sent - before < examples * BATCH:  # hypothesis may stop early when it has tried all it can think of
        statuses.update(noise(live, f"{number}/more/{live.sent}", BATCH))
    check_run(live)
    return statuses


def measure(process):
    with process.oneshot():
        return process.memory_full_info().uss, process.num_threads(), process.num_fds()


def test_mutated_messages_change_nothing(live):
    statuses = send_slice(live, "fast", FAST)
    # The mutations reach beyond the decoder.
    assert {s for s, n in statuses.items() if n > 3} >= EXPECTED - {grpc.StatusCode.ALREADY_EXISTS}


@pytest.mark.slow
def test_forty_thousand_mutated_messages_change_nothing_and_nothing_grows(live):
    send_slice(live, 0, SLOW)
    memory, threads, files = measure(live.process)
    for number in range(1, SLICES):
        send_slice(live, number, SLOW)
    later = measure(live.process)
    assert live.sent >= 40_000
    assert later[0] - memory < 32 << 20
    assert later[1] <= threads + 8  # gRPC's own pool breathes
    assert later[2] <= files + 8


# -- a real job --------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_job_ends_with_the_bits_it_has_without_the_noise(tmp_path, monkeypatch):
    leak = tmp_path / "leak"
    for folder in (leak, tmp_path / "orders"):
        folder.mkdir()
    monkeypatch.setenv(LEAK, str(leak))
    monkeypatch.setenv(ORDERS, str(tmp_path / "orders"))
    data = make_data(tmp_path / "data")
    flags = ["--rounds", 400, "--sample-num", 4, "--shards", 1, "--private", "out.bias", "--no-shared-memory"]
    run(TINY, data, *flags, "--output", tmp_path / "quiet", ranks=2)
    process = start(LEAKY, data, *flags, "--progress", "plain", "--output", tmp_path / "noisy", ranks=2)
    try:
        read_until(process, "round 1/")
        addresses, tickets = (json.loads((leak / name).read_text()) for name in ("at-1.json", "keys-1.json"))
        own = Keys(1, {int(server): bytes.fromhex(ticket) for server, ticket in tickets.items()})
        ours = SimpleNamespace(scheduler=addresses["0"], data=addresses["1"], keys={1: own}, sent=0)
        noise(ours, "job", 800)
        assert process.poll() is None, "the job has ended before the noise: give it more rounds"
        process.stdout.read()
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            kill_all(process)
        process.stdout.close()
    assert ours.sent > 100
    assert same(params(tmp_path / "noisy"), params(tmp_path / "quiet"))
    assert metrics(tmp_path / "noisy") == metrics(tmp_path / "quiet")
    assert len(private(tmp_path / "noisy")) == 12
    for uid, arrays in private(tmp_path / "quiet").items():
        assert same(private(tmp_path / "noisy")[uid], arrays)
