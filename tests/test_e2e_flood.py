"""Thousands of connections that never say who they are: they are cut off, and the run beside them goes on."""

import os
import socket
import subprocess
import sys
import time

import pytest
from deadly_task import ORDERS, order
from doors import GATE, keys
from hostile import WAIT
from running import ROOT, environment, kill_all, read_until, start, tree
from test_e2e_hosts import DEADLY, RUN, alone, assert_same_run, data, hosts, listening
from test_protos_certificates import Door, make_run

from protos import channel
from protos.channel import Caller, make_server
from simulator.machine.open_files import raise_file_limit

__all__ = ["alone", "data", "hosts"]  # fixtures

pytestmark = pytest.mark.usefixtures("scratch")


@pytest.fixture
def door(monkeypatch):
    """A server of a run on several hosts with room for 20 connections, which waits 1 s for a certificate."""
    ranks = make_run(2)
    monkeypatch.setattr(channel, "max_connections", lambda: 20)
    monkeypatch.setattr(channel, "_SERVER", [*channel._SERVER, ("grpc.server_handshake_timeout_ms", 1_000)])
    server, address = make_server(lambda made: made.add_generic_rpc_handlers((Door(),)), "127.0.0.1", 2, GATE, ranks[0])
    yield address, ranks[1]
    assert server.stop(0).wait(WAIT)


def ask(caller):
    return caller.call(caller.channel.unary_unary("/any.Service/AnyMethod"), b"hello", timeout=WAIT)


def silent(address):
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


@pytest.mark.slow
def test_who_says_nothing_is_cut_off_and_makes_room(door):
    address, credentials = door
    early = Caller(address, "the server", 0, keys(1, credentials))
    assert ask(early) == b"hello"
    strangers = [silent(address) for _ in range(19)]
    strangers[1].sendall(bytes.fromhex("1603010200010001fc0303"))  # a handshake that stops
    # There is no room for another.
    with silent(address) as one_more:
        assert one_more.recv(1) == b""
    assert ask(early) == b"hello"
    # Who is of the run is tried again until there is.
    late = Caller(address, "the server", 0, keys(1, credentials))
    assert ask(late) == b"hello"
    for stranger in strangers:
        assert stranger.recv(100) == b""
        stranger.close()
    for caller in (early, late):
        caller.close()


CODE = """
import resource
from simulator.machine.open_files import raise_file_limit
raise_file_limit()
from protos.channel import max_connections
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], max_connections())
"""


@pytest.mark.parametrize(
    ("limits", "after"), [("ulimit -Sn 256; ulimit -Hn 1024", "1024 512"), ("ulimit -n 700", "700 350")]
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(limits, after):
    command = ["bash", "-c", f'{limits}; exec "$@"', "bash", sys.executable, "-c", CODE]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == after


def test_a_limit_that_cannot_be_raised_stays(monkeypatch):
    def refuse(*args):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr("resource.getrlimit", lambda which: (100, 1000))
    monkeypatch.setattr("resource.setrlimit", refuse)
    raise_file_limit()


FLOOD = ROOT / "tests" / "flood.py"
CONNECTIONS, SECONDS = 5_000, 120


@pytest.mark.slow
@pytest.mark.parametrize("limits", ["ulimit -n 1024"])
def test_a_run_beside_a_flood_goes_on_to_the_same_bits(hosts, data, alone, tmp_path, monkeypatch, limits):
    """A shard dies in the flood, too: the one in its place has connections to make."""
    orders = tmp_path / "orders"
    monkeypatch.setenv(ORDERS, str(orders))
    order(orders, "train 20200101 2 user005", then=["wait"])
    order(orders, "train 20200101 3 user007")
    os.mkfifo(orders / "go")
    launch = ["bash", "-c", f'{limits}; exec "$@"', "bash", *hosts.mpirun()]
    process = start(DEADLY, data, *RUN, "--no-shared-memory", "--output", tmp_path / "out", mpirun=launch)
    flood = None
    try:
        read_until(process, "waiting")
        everything = tree(process)
        addresses = [address for number in hosts.numbers for address in listening(hosts, number, everything)]
        assert len(addresses) == 3
        arguments = [str(SECONDS), str(CONNECTIONS), *addresses]
        flood = subprocess.Popen([*hosts.outside(), sys.executable, str(FLOOD), *arguments], stdout=subprocess.PIPE)
        ranks = [p for p in everything if "deadly_task" in " ".join(p.cmdline()) and "python" in p.name()]
        time.sleep(3)
        before = {p.pid: sum(p.cpu_times()[:2]) for p in ranks}
        time.sleep(5)
        spent = {p.pid: sum(p.cpu_times()[:2]) - before[p.pid] for p in ranks}
        # It does not keep a core busy, as accepting again and again without a file left would.
        assert len(spent) == 3
        assert max(spent.values()) < 2.5
        (orders / "go").write_bytes(b"x")
        text = process.stdout.read()
        assert process.wait(60) == 0, text
        assert flood.poll() is None, "the run took longer than the flood"
        flood.terminate()
        made = int(flood.communicate(timeout=60)[0].split()[0])
        assert made > CONNECTIONS
    finally:
        if process.poll() is None:
            kill_all(process)
        process.stdout.close()
        if flood is not None:
            flood.kill()
            flood.communicate()
    assert "another takes its place" in text
    assert_same_run(tmp_path / "out", alone)
