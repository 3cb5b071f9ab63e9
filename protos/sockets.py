"""Unix sockets: their addresses, as ranks tell them to each other and as gRPC takes them."""

from __future__ import annotations

import os
import re
from pathlib import Path

# What the address of a Unix socket begins with.
UNIX = "unix:"
# Of a path in a sockaddr_un; what gRPC takes as it stands in an address.
_MAX_SOCKET_PATH, _PLAIN_PATH = 107, re.compile(r"[A-Za-z0-9/._-]+")


def socket_target(address: str) -> str:
    """A Unix socket's address as gRPC takes it.

    One that is too long for the system, or holds odd characters, is reached through a file
    descriptor of its folder, which stays open as long as this process.
    """
    path = Path(address.removeprefix(UNIX))
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH and _PLAIN_PATH.fullmatch(str(path)):
        return f"{UNIX}{path}"
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"{UNIX}/proc/self/fd/{folder}/{path.name}"
