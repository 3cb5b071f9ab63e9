"""Who is not of a run reaches none of it, and who is speaks for itself alone and at the right moment.

Every method of every server is tried beside a run of three ranks; the run goes on to the bits
that it has without.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from deadly_task import ORDERS, order
from doors import claimed
from google.protobuf import message_factory
from hostile import DATA, PEER, SCHEDULER, as_bytes, raw_channel
from leaky_task import LEAK, LOOK_FOR
from running import (
    ROOT,
    assert_same_record,
    environment,
    kill_all,
    params,
    private,
    read_until,
    run,
    start,
    tree,
    wait_until,
)
from tiny_task import make_data

from protos.codec import tensor_chunks, to_bundle
from protos.gate import Keys, _claiming
from protos.stubs import data_server_pb2 as dpb
from protos.stubs import peer_server_pb2 as ppb
from protos.stubs import scheduler_server_pb2 as pb

LEAKY = ROOT / "tests" / "leaky_task.py"
RUN = ["--rounds", 3, "--sample-num", 12, "--shards", 1, "--private", "out.bias"]
DAY, NEXT, USER = "20200101", "20200102", "user005"
SERVICES = (SCHEDULER, DATA, PEER)
METHODS = [(service, method.name) for service in SERVICES for method in service.methods]
REFUSED, FORBIDDEN = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
NOBODY = 65534


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("alone")
    run(LEAKY.with_name("tiny_task.py"), data, *RUN, "--output", output)
    return output


class Held:
    """A run of three ranks, held in its second round, and what only its ranks know."""

    def __init__(self, process, leak, output):
        self.process, self.output = process, output
        self.addresses = {int(r): a for r, a in json.loads((leak / "at-1.json").read_text()).items()}
        told = {rank: json.loads((leak / f"keys-{rank}.json").read_text()) for rank in (0, 1, 2)}
        self.keys = {r: Keys(r, {int(s): bytes.fromhex(t) for s, t in each.items()}) for r, each in told.items()}

    def go(self):
        """Lets the run go on; an error if it has ended."""

        def written():
            try:
                fifo = os.open(self.orders / "go", os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                return False  # it says that it waits a moment before it does
            os.write(fifo, b"x")
            os.close(fifo)
            return True

        wait_until(self.process, written)

    def say(self, service, method, messages, metadata, server=None, timeout=10.0):
        """(status, message or answers) of a call."""
        server = (0 if service is SCHEDULER else 2) if server is None else server
        with raw_channel(self.addresses[server]) as channel:
            path = f"/{service.full_name}/{method}"
            call = channel.stream_stream(path, request_serializer=as_bytes, response_deserializer=bytes)
            try:
                return grpc.StatusCode.OK, list(call(iter(messages), timeout=timeout, metadata=metadata))
            except grpc.RpcError as error:
                return error.code(), error.details()

    def as_rank(self, rank, service, method, messages, timeout=10.0):
        """What a rank hears that says this to the scheduler, or to the simulator of rank 2."""
        return self.say(service, method, messages, self.keys[rank].shown_to(0 if service is SCHEDULER else 2),
                        timeout=timeout)  # fmt: skip


@contextmanager
def holding(data, folder):
    """A run that waits in its second round until `go`; its temporary files are in a folder of their own."""
    orders, leak = folder / "orders", folder / "leak"
    for each in (orders, leak):
        each.mkdir()
    # Open to everybody, as /tmp is.
    scratch = Path(tempfile.mkdtemp(prefix="open-"))
    scratch.chmod(0o777)
    os.mkfifo(orders / "go")
    order(orders, f"train {DAY} 2 {USER}", then=["wait"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ((ORDERS, orders), (LEAK, leak), ("TMPDIR", scratch)):
            patch.setenv(name, str(value))
        process = start(LEAKY, data, *RUN, "--output", folder / "out", ranks=3)
    try:
        read_until(process, "waiting")
        made = Held(process, leak, folder / "out")
        made.orders = orders
        yield made
    finally:
        if process.poll() is None:
            kill_all(process)
        process.stdout.close()
    # Shards of a rank that was killed take its folder along a moment later.
    end = time.monotonic() + 20
    while left := list(scratch.iterdir()):
        assert time.monotonic() < end, left
    scratch.rmdir()


@pytest.fixture(scope="module")
def held(data, alone, tmp_path_factory):
    """A run that all sorts of things are tried beside; at the end it has the bits that it has without."""
    with holding(data, tmp_path_factory.mktemp("held")) as made:
        yield made
        assert made.process.poll() is None, made.process.stdout.read()
        made.go()
        text = made.process.stdout.read()
        assert made.process.wait(60) == 0, text
        assert_same_record(made.output, alone)


@pytest.fixture
def ending(data, tmp_path):
    """A run that is to end."""
    with holding(data, tmp_path) as made:
        yield made


def filled(kind, rank):
    """A message of a kind, in which a rank says that it is the sender wherever a message can."""
    made = kind()
    for part in _claiming(kind.DESCRIPTOR):
        if part.message_type is None:
            made.rank = rank
        else:
            inner = filled(message_factory.GetMessageClass(part.message_type), rank)
            field = getattr(made, part.name)
            if hasattr(field, "append"):
                field.append(inner)
            else:
                field.CopyFrom(inner)
    return made


def test_without_its_own_ticket_a_process_of_the_same_user_reaches_nothing(held):
    claiming = 0
    for service, method in METHODS:
        kind = message_factory.GetMessageClass(service.methods_by_name[method].input_type)
        message = filled(kind, 1)
        server = 0 if service is SCHEDULER else 2
        ticket = held.keys[1].shown_to(server)[0][1]
        wrong = {
            "none": (), "empty": (("flsim-ticket", ""),), "of nobody": (("flsim-ticket", "7" + ticket[1:]),),
            "one digit off": (("flsim-ticket", ticket[:-1] + ("0" if ticket[-1] != "0" else "1")),),
            "of another server": held.keys[1].shown_to(1), "of rank 2's name": (("flsim-ticket", "2" + ticket[1:]),),
        }  # fmt: skip
        for name, metadata in wrong.items():
            status, text = held.say(service, method, [message], metadata)
            assert (status, "no ticket of this run" in text) == (REFUSED, True), (method, name, status, text)
        if claimed([message], None) is not None:
            claiming += 1
            status, text = held.as_rank(2, service, method, [message])
            assert (status, text) == (FORBIDDEN, "rank 2 spoke for rank 1; a rank speaks for itself only"), method
    assert claiming > 20


def speaks(port):
    """Whether gRPC answers there."""
    with socket.create_connection(("127.0.0.1", port), timeout=5.0) as peer:
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        peer.settimeout(0.3)
        try:
            return peer.recv(1) != b""
        except OSError:
            return False


OUTSIDER = """
import json, os, pathlib, sys
import grpc
# All that it imports, while it may.
grpc.insecure_channel("unix:/none").close()
told = json.loads(sys.stdin.read())
os.setgroups([]); os.setgid(told["uid"]); os.setuid(told["uid"])
def attempt(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    except grpc.RpcError as error:
        return error.code().name
    return "worked"
heard = {}
for address in told["addresses"]:
    folder = os.path.dirname(address[5:])
    heard["listing of a folder"] = attempt(lambda: os.listdir(folder))
    heard["file of a folder"] = attempt(lambda: open(folder + "/alive").close())
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        for path in told["methods"]:
            call = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
            heard[path] = attempt(lambda: call(b"", timeout=5, metadata=[("flsim-ticket", told["ticket"])]))
for pid in told["pids"]:
    for name in ("fd", "environ", "mem", "cwd", "root"):
        path = pathlib.Path("/proc", str(pid), name)
        look = (lambda: os.listdir(path)) if name in ("fd", "cwd", "root") else (lambda: path.open("rb").read(1))
        heard[f"{name} of a process"] = attempt(look)
    for fd in range(3, 40):
        heard["a file of a process"] = attempt(lambda: os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR))
print(json.dumps(heard))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_reaches_nothing(held):
    processes = [p for p in tree(held.process) if "python" in p.name()]
    assert len(processes) == 5
    # MPICH's library leaves a port open in each rank, at which nobody answers.
    for address in {c.laddr for p in processes for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}:
        assert not speaks(address.port)
    told = {
        "uid": NOBODY, "addresses": list(held.addresses.values()), "pids": [p.pid for p in processes],
        "methods": [f"/{service.full_name}/{method}" for service, method in METHODS],
        "ticket": held.keys[1].shown_to(0)[0][1],
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDER], input=json.dumps(told),
        env=environment(), cwd="/", capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)
    assert len(heard) == len(METHODS) + 8
    # Even with a ticket: the socket cannot be come to.
    assert {heard.pop(path) for path in told["methods"]} == {"UNAVAILABLE"}
    assert set(heard.values()) == {"PermissionError"}


# -- a rank of the run, at a wrong moment --------------------------------------------


STATE, DONE = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ALREADY_EXISTS
WAITS, FINE, NONE = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND
BIAS = {"out.bias": np.zeros(3, np.float32)}
SUMS = {"out.weight": np.zeros((6, 3), np.int64)}


def key(step=1, number=None, date=DAY):
    return pb.RoundKey(rank=1, date=date, round=step + 1 if number is None else number, step=step)


def report(at):
    user = pb.UserResult(uid=USER, examples=1, weight=1.0)
    return [pb.RoundReport(key=at, users=[user]), pb.RoundReport(timings=pb.Timings())]


def push(at, tensors):
    head, tail = (pb.ParamsMessage(report=each) for each in report(at))
    return [head, *(pb.ParamsMessage(chunk=chunk) for chunk in tensor_chunks(tensors)), tail]


def moments(info, shared):
    """method -> calls of rank 1 in the second of three rounds, and what it hears."""
    last, far = key(2), key(3)
    data_key = dpb.UserDataKey(uid="UID", set=dpb.DataSet(date=DAY, split="train"))
    own = dpb.UserParamsKey(uid="UID", step=0)
    initial = [pb.ParamsMessage(chunk=c) for c in tensor_chunks(shared)]
    return {
        "Register": [([info], DONE)],
        "Exchange": [([pb.ExchangeRequest(rank=1, key=k)], WAITS) for k in ("odd", "model", f"done/{NEXT}/train")],
        "Watch": [([pb.WatchRequest(rank=1)], DONE)],
        "NextStages": [([pb.PlanRequest(rank=1, step=s)], status)
                       for s, status in ((1, FINE), (2, STATE), (99, STATE))],
        "UpdateUserInstNum": [([pb.UserInstNum(rank=1, date=d, split=s, uids=[USER], counts=[1])], DONE)
                              for d, s in ((DAY, "train"), (NEXT, "test"))],
        "UpdateUserWeights": [([pb.UserWeights(rank=1, date=DAY, uids=[USER], weights=[1.0])], STATE)],
        "SampleUsersToTrain": [([pb.SampleRequest(key=key(), rounds=2)], FINE),
                               ([pb.SampleRequest(key=far, rounds=1)], STATE),
                               ([pb.SampleRequest(key=key(10**6), rounds=1)], STATE)],
        "SampleUsersWithHash": [([pb.SampleRequest(key=key(), rounds=1)], STATE)],
        "FixedUsersToTrain": [([pb.SampleRequest(key=key(), rounds=1)], STATE)],
        "SampleUsersToTest": [([pb.TestRequest(key=key(5, 5, NEXT))], STATE),
                              ([pb.TestRequest(key=key(3, 3, NEXT))], WAITS)],
        "ChooseExchange": [([pb.Transport(rank=1, streams=True)], DONE)],
        "GetGlobalParams": [([pb.GetGlobalParamsRequest(rank=1, step=s)], status)
                            for s, status in ((1, FINE), (0, STATE), (2, WAITS), (4, STATE))],
        "GetSharedMemory": [([pb.SimulatorRank(rank=1)], FINE)],
        "UpdateGlobalParams": [([pb.ParamsMessage(private_names=pb.PrivateNames(names=["out.bias"])), *initial], DONE),
                               (push(key(0), {}), STATE)],
        "FedAvgUpdate": [(push(at, SUMS), STATE) for at in (key(0), last, far)],
        "FedAvgUpdateInMemory": [([pb.MemoryPush(reports=report(key(0)))], STATE)],
        "EndRound": [([key(0)], FINE), ([key(1)], WAITS), ([far], STATE), ([key(10**6)], STATE)],
        "ReportSegments": [([pb.SegmentReport(rank=1, step=2)], STATE)],
        "GetCheckpoints": [([pb.SimulatorRank(rank=1)], FINE)],
        "Restore": [([pb.RestoreRequest(rank=1, step=1)], NONE)],
        "UpdateTestMetrics": [(report(key(0, 0, NEXT)), STATE)],
        "Exit": [([pb.SimulatorRank(rank=1)], STATE)],
        "SendData": [([dpb.UserData(key=data_key, examples=to_bundle({"x": np.zeros((1, 6), np.float32)}))], STATE)],
        "GetUserData": [([data_key], FINE)],
        "ClearUserData": [([data_key.set], FORBIDDEN)],
        "GetUserParams": [([own], FINE)],
        "RestoreUserParams": [([dpb.StoredParams(key=own, params=to_bundle(BIAS))], STATE)],
        "SetPrivateStart": [(list(tensor_chunks(BIAS)), STATE)],
        "AddSums": [([ppb.PartSums(key=key())], STATE)],
        "GetPart": [([ppb.PartRequest(rank=1, step=1)], STATE)],
    }  # fmt: skip


# What would end the run, or be a lie about what it did.
WITH_EFFECT = {"ReportFailure", "RequestStop", "UpdateUserParams"}


@pytest.mark.slow
def test_a_rank_that_says_things_at_a_wrong_moment_neither_hangs_nor_changes_the_run(held, alone):
    calls = moments(
        pb.SimulatorInfo(rank=1, host="h", data_address="a:1", shards=1, days=[DAY]), params(alone, "initial")
    )
    assert set(calls) | WITH_EFFECT == {method for _, method in METHODS}
    owned = next(uid for uid in private(alone) if is_of_rank_2(held, uid))
    for service, method in METHODS:
        for messages, expected in calls.get(method, ()):
            for message in messages:
                if isinstance(message, dpb.UserDataKey | dpb.UserParamsKey):
                    message.uid = owned
                elif isinstance(message, dpb.UserData | dpb.StoredParams):
                    message.key.uid = owned
            timeout = 0.5 if expected is WAITS else 10.0
            status, text = held.as_rank(1, service, method, messages, timeout)
            assert status is expected, (method, messages, status, text)


def is_of_rank_2(held, uid):
    request = dpb.UserDataKey(uid=uid, set=dpb.DataSet(date=DAY, split="train"))
    return held.as_rank(1, DATA, "GetUserData", [request])[0] is FINE


ENDING = {
    "it fails": (SCHEDULER, "ReportFailure", [pb.Failure(rank=1, message="rank 1: it has had enough")], "had enough"),
    "it posts ahead of itself and waits": (
        SCHEDULER, "Exchange", [pb.ExchangeRequest(rank=1, key=f"done/{DAY}")], f"'done/{DAY}'",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", list(ENDING))
def test_what_ends_a_run_ends_it_in_seconds_with_one_message(ending, case):
    service, method, messages, said = ENDING[case]
    path = f"/{service.full_name}/{method}"
    with raw_channel(ending.addresses[0]) as channel:
        call = channel.stream_stream(path, request_serializer=as_bytes, response_deserializer=bytes)
        going = call(iter(messages), metadata=ending.keys[1].shown_to(0))
        if method == "ReportFailure":
            list(going)
        else:
            ending.go()
        text = ending.process.stdout.read()
        assert ending.process.wait(15) != 0
        going.cancel()
    assert said in text, text
    assert len([line for line in text.splitlines() if line.startswith("rank ")]) == 1, text


# -- private values of --init ----------------------------------------------------------


@pytest.mark.slow
def test_private_values_of_init_never_reach_the_scheduler(data, alone, tmp_path, scratch, monkeypatch):
    start = params(alone, "initial")
    planted = {
        "out.weight": np.full_like(start["out.weight"], 1.2345678),
        "out.bias": np.full(3, 2.3456789, np.float32),
    }
    np.savez(tmp_path / "start.npz", **{**start, **planted})
    for folder in ("orders", "leak"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv(ORDERS, str(tmp_path / "orders"))
    monkeypatch.setenv(LEAK, str(tmp_path / "leak"))
    monkeypatch.setenv(LOOK_FOR, json.dumps({name.replace(".", "-"): v.tobytes().hex() for name, v in planted.items()}))
    init = [*RUN, "--init", tmp_path / "start.npz"]
    run(LEAKY, data, *init, "--output", tmp_path / "three", ranks=3)
    seen = {path.name: json.loads(path.read_text()) for path in (tmp_path / "leak").glob("seen-*")}
    # The shared ones are seen where they belong, so that private ones would have been.
    assert seen == {"seen-out-weight.json": "UpdateGlobalParams"}
    run(LEAKY.with_name("tiny_task.py"), data, *init, "--output", tmp_path / "one")
    assert_same_record(tmp_path / "three", tmp_path / "one")
