"""Which address a host tells the others, and which program launched it."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
from running import ROOT

from protos.errors import BadInput
from simulator.launch.addresses import Address, choose_address, own_addresses, place
from simulator.launch.launcher import end_launcher_later, find_launcher

LO, ETH, IB, ETH6 = (
    Address("lo", "127.0.0.1"),
    Address("eth0", "192.0.2.7"),
    Address("ib0", "10.1.2.3"),
    Address("eth0", "fd00::7"),
)
ALL = [LO, ETH, IB, ETH6]


@pytest.fixture
def named(monkeypatch):
    """Sets what a host name leads to."""

    def leads_to(*found):
        def look_up(host, port):
            if not found:
                raise socket.gaierror("no such name")
            return [(None, None, None, "", (address, 0)) for address in found]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    leads_to()
    return leads_to


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("ib0", "10.1.2.3"),
        ("eth0", "192.0.2.7"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.0.0/16", "10.1.2.3"),
        ("10.1.9.9/16", "10.1.2.3"),
        ("fd00::/8", "fd00::7"),
    ],
)
def test_an_interface_an_address_or_a_network_chooses(named, wanted, found):
    assert choose_address(wanted, "node", ALL) == found


@pytest.mark.parametrize("wanted", ["eth1", "10.2.0.0/16", "10.1.2.4", "", "lo", "127.0.0.1", "10.1.2.3/33"])
def test_what_is_not_there_names_the_setting_and_what_is(named, wanted):
    with pytest.raises(BadInput) as error:
        choose_address(wanted, "node", ALL)
    text = str(error.value)
    assert text.startswith(f"--interface {wanted}: host node has no such interface, address or network; it has ")
    assert text.endswith("eth0 (192.0.2.7), ib0 (10.1.2.3), eth0 (fd00::7)")


def test_by_default_the_host_name_chooses(named):
    named("10.1.2.3")
    assert choose_address(None, "node", ALL) == "10.1.2.3"
    named("127.0.1.1", "192.0.2.7")
    assert choose_address(None, "node", ALL) == "192.0.2.7"


@pytest.mark.parametrize("leads_to", [(), ("127.0.1.1",), ("203.0.113.5",)])
def test_the_only_address_is_taken_whatever_the_host_name_leads_to(named, leads_to):
    named(*leads_to)
    assert choose_address(None, "node", [LO, IB]) == "10.1.2.3"


@pytest.mark.parametrize(
    ("leads_to", "told"), [((), "its name is not known"), (("127.0.1.1",), "its name leads to 127.0.1.1")]
)
def test_with_nothing_to_choose_by_it_asks(named, leads_to, told):
    named(*leads_to)
    with pytest.raises(BadInput) as error:
        choose_address(None, "node", ALL)
    assert f"--interface is needed: host node has eth0 (192.0.2.7), ib0 (10.1.2.3), eth0 (fd00::7), and {told}" in str(
        error.value
    )


def test_a_host_without_a_network_says_so(named):
    with pytest.raises(BadInput, match="no address but loopback"):
        choose_address(None, "node", [LO])


def test_the_addresses_of_this_machine_are_its_own():
    found = own_addresses()
    assert LO in found
    for each in found:
        family = socket.AF_INET6 if ":" in each.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((each.address, 0))
    assert {each.interface for each in found} <= {name for _, name in socket.if_nameindex()}


def test_one_place_is_one_loopback():
    code = "from simulator.launch.addresses import place; print(place())"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert other.stdout.strip() == place()


# -- the launcher ------------------------------------------------------------------


@pytest.fixture
def launcher(tmp_path):
    """A process called mpirun with a process below it: (launcher, process id below)."""
    shell = tmp_path / "mpirun"
    shutil.copy(shutil.which("sh"), shell)
    process = subprocess.Popen(
        [shell, "-c", 'sh -c "echo \\$\\$; read line; exit"; exit 3'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process, int(process.stdout.readline())
    process.kill()
    process.communicate()


def test_the_launcher_is_found_above_its_ranks(launcher):
    process, below = launcher
    assert find_launcher(below) == (process.pid, "mpirun")


def test_without_a_launcher_on_this_machine_nothing_is_ended():
    assert find_launcher(1) is None
    assert find_launcher(0) is None


def test_a_launcher_that_has_ended_is_not_mistaken_for_another_process(monkeypatch):
    monkeypatch.setattr("simulator.launch.launcher.find_launcher", lambda pid: (os.getpid(), "mpirun"))
    assert end_launcher_later(0.1).wait(10.0) != 0  # this process is not called mpirun


def test_a_launcher_that_waits_for_ever_is_ended(launcher, monkeypatch):
    process, below = launcher
    monkeypatch.setattr(os, "getppid", lambda: below)
    waiter = end_launcher_later(0.1)
    assert process.wait(10.0) == -15
    assert waiter.wait(10.0) == 0
