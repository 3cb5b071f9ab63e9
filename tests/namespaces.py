"""Several hosts on one machine: network namespaces with an address each, joined by a switch."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

NETWORK = "10.77.0"
# MPICH's mpirun starts each host's share of the ranks through this, as it would through ssh.
LAUNCH = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=${1##*.}; shift
exec ip netns exec PREFIX-$host unshare --uts sh -c \
    "hostname node$host; [ ! -d FOLDER/disk$host ] || mount --bind FOLDER/disk$host FOLDER/disk; $*"
"""
# A port that nobody listens on refuses as soon as its host is reached.
REACH = """
import socket, sys
while True:
    try:
        socket.create_connection((sys.argv[1], 9), timeout=5)
    except ConnectionRefusedError:
        break
    except OSError:
        continue
"""


class Hosts:
    """Hosts node1, node2, ...: rank 0, 1, ... of a run, each with one address on `data`."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        self.prefix = f"flsim{os.getpid()}"
        self.switch = f"{self.prefix}-switch"
        self.numbers = tuple(range(1, count + 1))
        self.folder = folder
        self.hostfile = folder / "hosts"
        self.launch = folder / "launch.sh"
        self.launch.write_text(LAUNCH.replace("PREFIX", self.prefix).replace("FOLDER", str(folder)), encoding="utf-8")
        self.launch.chmod(0o755)

    def set_up(self) -> None:
        """Makes the namespaces; skips the test where that is not permitted."""
        try:
            ip("netns", "add", self.switch)
            subprocess.run(["unshare", "--uts", "hostname", "node"], check=True, capture_output=True, timeout=30)
            ip("-n", self.switch, "link", "add", "switch", "type", "bridge")
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", None) or b"").decode().strip()
            pytest.skip(f"network namespaces are not permitted here: {said or error}")
        ip("-n", self.switch, "address", "add", f"{NETWORK}.254/24", "dev", "switch")
        ip("-n", self.switch, "link", "set", "switch", "up")
        for number in self.numbers:
            here, there = f"port{number}", self.namespace(number)
            ip("netns", "add", there)
            ip("-n", there, "link", "set", "lo", "up")
            ip("-n", self.switch, "link", "add", here, "type", "veth", "peer", "name", "data", "netns", there)
            ip("-n", self.switch, "link", "set", here, "master", "switch", "up")
            ip("-n", there, "address", "add", f"{NETWORK}.{number}/24", "dev", "data")
            ip("-n", there, "link", "set", "data", "up")

    def limit(self, megabits: int) -> None:
        """Gives every host's link so many Mbit a second each way."""
        for number in self.numbers:
            for name, device in ((self.namespace(number), "data"), (self.switch, f"port{number}")):
                rate = ["rate", f"{megabits}mbit", "burst", "256kb", "latency", "50ms"]
                command = ["ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", device, "root", "tbf", *rate]
                subprocess.run(command, check=True, capture_output=True, timeout=30)

    def tear_down(self) -> None:
        """Removes the namespaces, and with them all links."""
        for name in (self.switch, *map(self.namespace, self.numbers)):
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                ip("netns", "delete", name)

    def namespace(self, number: int) -> str:
        return f"{self.prefix}-{number}"

    def cut_off(self, number: int) -> None:
        """Nothing reaches the host any more, and nothing says so."""
        ip("-n", self.switch, "link", "set", f"port{number}", "down")

    def join(self, number: int) -> None:
        """The host is back: it reaches the others."""
        ip("-n", self.switch, "link", "set", f"port{number}", "up")
        for name in (self.switch, *map(self.namespace, self.numbers)):
            # What was looked for in vain is not looked for again for a while.
            ip("-n", name, "neigh", "flush", "all")
        command = ["ip", "netns", "exec", self.namespace(number), sys.executable, "-c", REACH, f"{NETWORK}.254"]
        subprocess.run(command, check=True, timeout=30)

    def outside(self) -> list[str]:
        """Begins a command that runs on the network of the hosts, but on none of them."""
        return ["ip", "netns", "exec", self.switch]

    @contextlib.contextmanager
    def own_disks(self) -> Iterator[tuple[Path, dict[int, Path]]]:
        """A path that is another folder on every host; gives it and those folders by number of the host."""
        folders = {number: self.folder / f"disk{number}" for number in self.numbers}
        for folder in (disk := self.folder / "disk", *folders.values()):
            folder.mkdir()
        try:
            yield disk, folders
        finally:
            for folder in (disk, *folders.values()):
                shutil.rmtree(folder)

    def run_on(self, number: int, *command: str) -> str:
        """Runs a command on a host; returns its output."""
        whole = ["ip", "netns", "exec", self.namespace(number), *command]
        return subprocess.run(whole, check=True, capture_output=True, text=True, timeout=30).stdout

    def mpirun(self, hostfile: str = "") -> list[str]:
        """Begins a command line that starts as many ranks as hosts: one on each, or as a hostfile says."""
        hosts = hostfile or "\n".join(f"{NETWORK}.{number}:1" for number in self.numbers)
        self.hostfile.write_text(hosts, encoding="utf-8")
        start = ["mpirun", "-launcher", "ssh", "-launcher-exec", str(self.launch), "-iface", "switch"]
        return [*self.outside(), *start, "-np", str(len(self.numbers)), "--hostfile", str(self.hostfile)]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)
