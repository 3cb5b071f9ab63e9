"""A Slurm cluster on one machine: a controller and a daemon for each host, hosts being network namespaces."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from namespaces import NETWORK, Hosts, ip

CONFIG = """
ClusterName=flsim
SlurmctldHost=switch({network}.254)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MailProg=/bin/true
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NEEDED = ("slurmctld", "slurmd", "srun", "sbatch", "scontrol")
START_SECONDS = 30.0


class SlurmCluster:
    """`hosts.numbers` nodes called node1, node2, ..., with so many cores each."""

    def __init__(self, hosts: Hosts, folder: Path, cores: int = 8) -> None:
        self._hosts, self._folder = hosts, folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        nodes = "\n".join(
            f"NodeName=node{n} NodeHostname=node{n} NodeAddr={NETWORK}.{n} CPUs={cores} State=UNKNOWN"
            for n in hosts.numbers
        )
        self._config = folder / "slurm.conf"
        self._config.write_text(CONFIG.format(network=NETWORK, folder=folder, nodes=nodes), encoding="utf-8")
        self.environment = {**os.environ, "SLURM_CONF": str(self._config)}

    def set_up(self) -> None:
        """Starts the daemons; skips the test where Slurm is not installed."""
        missing = [name for name in NEEDED if shutil.which(name) is None]
        if missing:
            pytest.skip(f"Slurm is not installed here ({missing[0]} is missing; Debian's package is slurm-wlm)")
        # The controller reaches itself by its address on the switch.
        ip("-n", self._hosts.switch, "link", "set", "lo", "up")
        (self._folder / "state").mkdir()
        self._start(self._hosts.outside(), "switch", ["slurmctld", "-D", "-f", str(self._config)])
        for number in self._hosts.numbers:
            (self._folder / f"spool-node{number}").mkdir()
            daemon = ["slurmd", "-D", "-f", str(self._config), "-N", f"node{number}"]
            # Not with `ip netns exec`, which hides the control groups that a daemon looks for.
            self._start(["nsenter", f"--net=/run/netns/{self._hosts.namespace(number)}"], f"node{number}", daemon)
        end = time.monotonic() + START_SECONDS
        idle = ""
        while idle.count("idle") != len(self._hosts.numbers):
            assert time.monotonic() < end, self._logs()
            assert all(daemon.poll() is None for daemon in self._daemons), self._logs()
            idle = self.run("sinfo", "-h", "-N", "-o", "%T", check=False).stdout

    def _start(self, begin: list[str], host: str, command: list[str]) -> None:
        whole = [*begin, "unshare", "--uts", "sh", "-c", f'hostname {host}; exec "$@"', "sh", *command]
        self._daemons.append(
            subprocess.Popen(
                whole,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )

    def _logs(self) -> str:
        return "\n".join(path.read_text(encoding="utf-8")[-2000:] for path in self._folder.glob("*.log"))

    def run(self, *command: str, check: bool = True, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Runs a command of Slurm where the controller runs."""
        done = subprocess.run(
            [*self._hosts.outside(), *command], env=self.environment, cwd=self._folder, capture_output=True, text=True,
            timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self._logs()}"
        return done

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Starts a command of Slurm; the caller ends it."""
        return subprocess.Popen(
            [*self._hosts.outside(), *command], env=self.environment, cwd=self._folder, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def tear_down(self) -> None:
        """Ends the daemons and what they have started."""
        below = [child for daemon in self._daemons for child in _children(daemon.pid)]
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
        for process in below:
            if process.is_running():
                process.kill()


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
