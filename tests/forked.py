"""Python processes that are forked off a server that has imported what they need, since imports are most of a start.

    python forked.py serve SOCKET MODULE ...     imports, and forks whatever is asked for
    python -I -S forked.py SOCKET ARGUMENT ...   as `python ARGUMENT ...`, by that server

The second is a small process that stands for the forked one where a process is started: it hands over its arguments,
variables, folder, file descriptors and signal mask, ends as that one does, and takes it along by SIGKILL when it dies
first.  Other signals do not get through: tests of those start Python itself.

The server forks while it has one thread, no file but its socket, and nothing begun of gRPC, MPI or OpenMP; that is
checked before each fork.  So a forked process is what `python` would be after the same imports.
"""

import json
import os
import signal
import socket
import sys

# Of a run's ranks: the socket by which their shards are forked, too.
SHARDS = "FORKED_SHARDS"
# Above what a process has open.
_HIGH = 500
_MOST_FDS = 64


def stand_in(address, arguments):
    """Has the server fork a process and ends as that one does."""
    with os.scandir("/proc/self/fd") as entries:
        seen = [int(entry.name) for entry in entries]
    told = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109 - a third of this process's time would be the import of pathlib
        "fds": (fds := list(filter(_is_open, seen))),
        "mask": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "leads": os.getsid(0) == os.getpid(),
    }
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        raw = json.dumps(told).encode()
        socket.send_fds(server, [len(raw).to_bytes(8, "little")], fds)
        server.sendall(raw)
        # Now they are open in the process, and close when it ends.
        os.closerange(3, server.fileno())
        os.closerange(server.fileno() + 1, _HIGH)
        said = server.recv(4)
    status = int.from_bytes(said, "little") if said else 1 << 8
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
        signal.pause()
    os._exit(os.waitstatus_to_exitcode(status))


def _is_open(fd):
    """Whether a file is: the one by which open files were listed is closed again."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def serve(address, modules):
    """Forks whatever is asked for; returns, in each forked process alone, what that one was told."""
    import contextlib
    import gc
    import importlib
    import selectors
    import warnings
    from pathlib import Path

    warnings.filterwarnings("ignore", module="paddle")
    for module in modules:
        importlib.import_module(module)
    # The collector need not visit, and so copy, what all of them share.
    gc.collect()
    gc.freeze()
    # What was open before has been opened by whoever has started the server.
    os.closerange(3, _HIGH)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(0, selectors.EVENT_READ)  # closed when the test is over
    children = {}  # pidfd -> (pid, connection)
    while True:
        for key, _ in waiting.select():
            if key.fileobj == 0:
                for pid, _ in children.values():
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            elif key.fileobj is listener:
                connection, _ = listener.accept()
                told, fds = _hear(connection)
                threads = list(Path("/proc/self/task").iterdir())
                assert len(threads) == 1, f"a server of forks has {len(threads)} threads"
                pid = os.fork()
                if pid == 0:
                    waiting.close()
                    return told, fds
                for fd in fds:
                    os.close(fd)
                pidfd = os.pidfd_open(pid)
                children[pidfd] = pid, connection
                waiting.register(pidfd, selectors.EVENT_READ)
                waiting.register(connection, selectors.EVENT_READ, pid)
            elif key.fileobj in children:
                pid, connection = children.pop(key.fileobj)
                waiting.unregister(key.fileobj)
                os.close(key.fileobj)
                if connection in waiting.get_map():
                    waiting.unregister(connection)
                status = os.waitpid(pid, 0)[1]
                # If that one was killed, nobody listens.
                with connection, contextlib.suppress(OSError):
                    connection.sendall(status.to_bytes(4, "little"))
            elif any(connection is key.fileobj for _, connection in children.values()):
                # Who stands for the process is dead.
                waiting.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)


def _hear(connection):
    head, fds, _, _ = socket.recv_fds(connection, 8, _MOST_FDS)
    size, raw = int.from_bytes(head, "little"), b""
    while len(raw) < size:
        raw += connection.recv(size - len(raw))
    return json.loads(raw), fds


def become(told, fds):
    """Makes this forked process what was asked for."""
    import fcntl
    import random
    import runpy
    from pathlib import Path

    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in fds]
    os.closerange(3, _HIGH)
    for fd, number in zip(high, told["fds"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    if told["leads"]:
        os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, told["mask"])
    mine = os.environ["PYTHONPATH"].split(os.pathsep)
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["folder"])
    random.seed()
    # The first entry is this script's own folder.
    own = [path for path in sys.path[1:] if path not in mine]
    sys.path[:] = ["", *dict.fromkeys([*os.environ["PYTHONPATH"].split(os.pathsep), *own])]
    if SHARDS in os.environ:
        _fork_shards(os.environ[SHARDS])
    script, *rest = told["arguments"]
    if script == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        return
    sys.argv[:] = [script, *rest]
    sys.path[0] = str(Path(script).resolve().parent)
    runpy.run_path(script, run_name="__main__")


def _fork_shards(address):
    """Has this rank's shards forked, too."""
    from simulator.shards import process

    command = process.module_command
    process.module_command = lambda module: [sys.executable, "-I", "-S", __file__, address, *command(module)[1:]]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        become(*serve(sys.argv[2], sys.argv[3:]))
    else:
        stand_in(sys.argv[1], sys.argv[2:])
