"""One shard as its simulator sees it: a process and the pipe that drives it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from protos.errors import FLError
from simulator.launch.main_script import SHARD_MODULE, main_module, module_command
from simulator.launch.signals import hold_back, let_through
from simulator.shards import jobs

# From a closed pipe to the end of the process.
_GRACE_SECONDS = 5.0


class ShardProcess:
    """A running shard.

    Args:
        told: what it is told at the start; it inherits the file descriptors named there.
        environment: its variables.
        lifeline: file descriptor that ends when the simulator does.

    Raises:
        FLError: the system starts no more processes.
    """

    def __init__(self, told: jobs.ShardSettings, environment: Mapping[str, str], lifeline: int) -> None:
        # Whether it has ever answered: if not, it may be that it cannot even start.
        self.answered = False
        ours, theirs = socket.socketpair()
        with ours, theirs:
            before = hold_back()
            try:
                self._process = subprocess.Popen(
                    [*module_command(SHARD_MODULE), str(theirs.fileno()), str(lifeline)],
                    env=environment,
                    pass_fds=(told.params_fd, told.sums_fd, told.queue_fd, theirs.fileno(), lifeline),
                    stdin=subprocess.DEVNULL,
                    # Launchers kill a rank's whole process group; a shard lives on for the
                    # moment it takes to remove the rank's scratch folder.
                    start_new_session=True,
                )
            except OSError as error:
                raise FLError(f"shard {told.index} cannot be started: {error.strerror}") from error
            finally:
                let_through(before)
            self.connection = Connection(ours.detach())
        # If it is dead already, its first job tells.
        with contextlib.suppress(OSError):
            self.connection.send(main_module())
            self.connection.send(told)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, job: Any) -> None:
        """Gives it a job.

        Raises:
            OSError: it is dead.
        """
        self.connection.send(job)

    def send_pickled(self, message: bytes | memoryview) -> None:
        """As `send`, of what is the same for many shards and pickled already."""
        self.connection.send_bytes(message)

    def receive(self) -> jobs.Done | jobs.Failed:
        """Its answer.

        Raises:
            EOFError, OSError: it is dead.
        """
        answer: jobs.Done | jobs.Failed = self.connection.recv()
        self.answered = True
        return answer

    def bury(self) -> int:
        """Reaps it when its pipe has closed; returns its exit status, or minus the signal."""
        try:
            code = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            # It has closed its pipe and does not leave; what it still does must not count.
            self._process.kill()
            code = self._process.wait()
        self.connection.close()
        return code

    def leave(self) -> None:
        """Asks it to end."""
        with contextlib.suppress(OSError):
            self.connection.send(jobs.Stop())

    def wait(self, timeout: float) -> None:
        """Waits for its end, and kills it after `timeout` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()

    def release(self) -> None:
        """Reaps it after its end."""
        self._process.wait()
        self.connection.close()
