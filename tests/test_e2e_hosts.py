"""A run on three hosts with addresses of their own: the same bits, nobody from outside, an end when one is cut off."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from deadly_task import ORDERS, order
from namespaces import NETWORK, Hosts
from running import (
    ROOT,
    TINY,
    environment,
    kill_all,
    metrics,
    params,
    private,
    read_until,
    run,
    same,
    start,
    tree,
    wait_until,
)
from tiny_task import make_data

# Keep-alive takes 7 s to find a host that is silent, the launcher has 3 s more.
BOUND = 15.0
RUN = ["--rounds", 3, "--sample-num", 12, "--shards", 1, "--private", "out.bias", "--checkpoint-every", 1]
EXCHANGE = ["--exchange", "always"]
DEADLY = ROOT / "tests" / "deadly_task.py"
OUTSIDER = """
import sys, grpc
from protos.stubs import scheduler_server_pb2 as pb, scheduler_server_pb2_grpc as pb_grpc
for channel in (grpc.insecure_channel(sys.argv[1]), grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials())):
    try:
        pb_grpc.SchedulerServerStub(channel).ReportFailure(pb.Failure(rank=1, message="from outside"), timeout=10)
    except grpc.RpcError as error:
        print(error.code().name)
"""
pytestmark = pytest.mark.usefixtures("scratch")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    made = Hosts(tmp_path_factory.mktemp("hosts"))
    try:
        made.set_up()
        yield made
    finally:
        made.tear_down()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def alone(hosts, data, tmp_path_factory):
    """The same run as one process on one host."""
    output = tmp_path_factory.mktemp("alone")
    run(TINY, data, *RUN, "--output", output)
    return output


def assert_same_run(output, expected):
    assert same(params(output), params(expected))
    assert metrics(output) == metrics(expected)
    mine, theirs = private(output), private(expected)
    assert set(mine) == set(theirs) != set()
    assert all(same(mine[uid], theirs[uid]) for uid in mine)


# Namespaces of one machine share its memory, real hosts do not: both ways must hold.
@pytest.mark.parametrize(
    ("hostfile", "memory"),
    [
        pytest.param("", ["--no-shared-memory"], id="a rank each", marks=pytest.mark.slow),
        pytest.param("", ["--shared-memory"], id="that share memory", marks=pytest.mark.slow),
        pytest.param("", ["--no-shared-memory", *EXCHANGE], id="that exchange"),
        # As the README has it: the scheduler shares the first host with a simulator.
        pytest.param(
            f"{NETWORK}.1:2\n{NETWORK}.2:1", ["--no-shared-memory"], id="two ranks on the first", marks=pytest.mark.slow
        ),
    ],
)
def test_several_hosts_give_the_bits_of_one(hosts, data, alone, tmp_path, hostfile, memory):
    done = run(TINY, data, *RUN, *memory, "--output", tmp_path, mpirun=hosts.mpirun(hostfile))
    assert "2 simulators, 2 shards, 2 hosts" in done.stdout
    assert_same_run(tmp_path, alone)


@pytest.mark.slow
def test_hosts_with_files_of_their_own_give_the_bits_of_one_disk(hosts, data, alone, tmp_path):
    with hosts.own_disks() as (disk, folders):
        for number, file in ((2, 0), (3, 1)):
            for path in data.glob(f"*/*_{file}.json"):
                (folders[number] / path.parent.name).mkdir(exist_ok=True)
                shutil.copy(path, folders[number] / path.parent.name)
        run(TINY, disk, *RUN, "--no-shared-memory", "--output", tmp_path, mpirun=hosts.mpirun())
        assert list(disk.iterdir()) == []
    assert same(params(tmp_path), params(alone))
    assert metrics(tmp_path) == metrics(alone)


@pytest.mark.slow
def test_three_hosts_train_the_language_model_to_the_bits_of_one(hosts, tmp_path):
    job = ["lm_data", "--rounds", 3, "--sample-num", 4, "--test-sampler", "one-percent", "--shards", 1]
    run(ROOT / "application.py", *job, "--output", tmp_path / "one", timeout=300)
    several = [*job, "--no-shared-memory", "--output", tmp_path / "three"]
    run(ROOT / "application.py", *several, mpirun=hosts.mpirun(), timeout=300)
    assert same(params(tmp_path / "three"), params(tmp_path / "one"))
    assert metrics(tmp_path / "three") == metrics(tmp_path / "one")


# -- who may talk ------------------------------------------------------------------


@pytest.fixture
def hanging(request, hosts, data, tmp_path, tmp_path_factory, monkeypatch):
    """A run on three hosts in its second round, with the checkpoint of the first, and all its processes."""
    orders = tmp_path_factory.mktemp("orders")
    monkeypatch.setenv(ORDERS, str(orders))
    os.mkfifo(orders / "go")
    order(orders, "train 20200101 2 user005", then=["wait"])
    more = getattr(request, "param", [])
    process = start(DEADLY, data, *RUN, "--no-shared-memory", *more, "--output", tmp_path, mpirun=hosts.mpirun())
    try:
        read_until(process, "waiting")
        wait_until(process, (tmp_path / "checkpoints" / "step-00000001.ckpt").exists)
        yield process, tree(process)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=BOUND)
    finally:
        if process.poll() is None:
            kill_all(process)
        process.stdout.close()


def listening(hosts, number, everything):
    """Addresses that Python processes of a host listen on; the launcher has sockets of its own."""
    shown = hosts.run_on(number, "ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes")
    pids = {each.pid for each in everything if "deadly_task" in " ".join(each.cmdline())}
    found = []
    for words in map(str.split, shown.splitlines()):
        if pids & set(map(int, re.findall(r"pid=(\d+)", words[-1]))):
            # gRPC's sockets show an IPv4 address in IPv6's clothes.
            found.append(re.sub(r"^\[::ffff:(.+)\]", r"\1", words[3]))
    return found


def test_only_the_hosts_of_the_run_are_let_in(hosts, hanging, scratch):
    process, everything = hanging
    for number in hosts.numbers:
        # One server a rank, on the address of its host and on no other.
        (address,) = listening(hosts, number, everything)
        assert address.startswith(f"{NETWORK}.{number}:")
        done = subprocess.run(
            [*hosts.outside(), sys.executable, "-c", OUTSIDER, address],
            env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert done.stdout.split() == ["UNAVAILABLE", "UNAVAILABLE"]
    assert process.poll() is None
    for each in everything:
        assert "PRIVATE KEY" not in " ".join([*each.cmdline(), *each.environ().values()])
    files = [path for path in scratch.rglob("*") if path.is_file()]
    assert files != []
    assert all(b"PRIVATE KEY" not in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("interface", "said"),
    [("eth7", "eth7: host node1 has no such interface"), (f"{NETWORK}.2", f"{NETWORK}.2: host node1 has no such")],
)
def test_an_interface_that_a_host_lacks_is_said_before_anything_starts(hosts, data, tmp_path, interface, said):
    output = tmp_path / "out"
    done = run(
        TINY, data, *RUN, "--interface", interface, "--output", output, mpirun=hosts.mpirun(), check=False
    )  # fmt: skip
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert f"--interface {said}" in lines[0]
    assert f"it has data ({NETWORK}.1)" in lines[0]
    assert not output.exists()


# -- a host is cut off ---------------------------------------------------------------


SIMULATOR_GONE = r"^rank [01]: .*\brank 2\b.* (is gone|does not answer)"
SCHEDULER_GONE = r"^rank [12]: .*the scheduler \(rank 0\) at \S+ does not answer"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hanging", "number", "named"),
    [
        pytest.param([], 3, SIMULATOR_GONE, id="a simulator"),
        pytest.param(EXCHANGE, 3, SIMULATOR_GONE, id="a simulator that exchanges"),
        pytest.param([], 1, SCHEDULER_GONE, id="the scheduler"),
        pytest.param(EXCHANGE, 1, SCHEDULER_GONE, id="the scheduler of simulators that exchange"),
    ],
    indirect=["hanging"],
)
def test_a_host_that_is_cut_off_ends_the_run(hosts, hanging, alone, tmp_path, number, named):
    process, everything = hanging
    began = time.monotonic()
    hosts.cut_off(number)
    try:
        text = process.stdout.read()
        assert process.wait(BOUND) != 0
        _, alive = psutil.wait_procs(everything, timeout=BOUND)
        assert alive == []
        assert time.monotonic() - began < BOUND
        assert re.search(named, text, re.M), text
    finally:
        hosts.join(number)
    done = run(DEADLY, "--resume", tmp_path, "--no-shared-memory", mpirun=hosts.mpirun())
    assert "resumed after round 1 of the run" in done.stdout + done.stderr
    assert_same_run(tmp_path, alone)
