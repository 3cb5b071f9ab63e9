"""Which of this machine's addresses the other hosts are told."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import logging
import os
import socket
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protos.errors import BadInput, FLError
from protos.shared_arrays import machine_id

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_SIOCGIFCONF = 0x8912
# struct ifreq of 64-bit Linux: a name, then a sockaddr_in in a union of 24 bytes.
_IFREQ, _NAME_BYTES, _ADDRESS_AT = 40, 16, 20
_MAX_ADDRESSES = 1024


@dataclass(frozen=True)
class Address:
    """An address of this machine and the interface it belongs to."""

    interface: str
    address: str

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.address).is_loopback

    def __str__(self) -> str:
        return f"{self.interface} ({self.address})"


def own_addresses() -> list[Address]:
    """This machine's IPv4 addresses of interfaces that are up, and its global IPv6 addresses."""
    return [*_ipv4(), *_ipv6()]


def place() -> str:
    """The same text for two processes exactly if they reach each other over loopback.

    Not the host name: two machines may have one name, and a container has its own loopback.
    """
    try:
        network = Path("/proc/self/ns/net").readlink().name
    except OSError:
        network = ""
    return f"{machine_id() or socket.gethostname()} {network}"


def temporary_folder() -> tuple[str, str]:
    """The folder for temporary files, and what tells it from all others of this machine; "" twice if there is none."""
    try:
        # As it is told, full or not: `gettempdir` tries it, and goes elsewhere without a word.
        path = os.environ.get("TMPDIR") or tempfile.gettempdir()
        return path, _identity(path)
    except OSError:
        return "", ""


def is_here(folder: str, identity: str) -> bool:
    """Whether this process finds another's temporary folder under the same name: containers may have their own."""
    try:
        return not folder or _identity(folder) == identity
    except OSError:
        return False


def _identity(path: str) -> str:
    found = Path(path).stat()
    return f"{found.st_dev} {found.st_ino}"


def choose_address(wanted: str | None, host: str, addresses: Sequence[Address]) -> str:
    """The address that servers of this host listen on and that the other hosts are told.

    Args:
        wanted: name of an interface, an address or a network (10.1.0.0/16); None to choose.
        host: this machine's name.
        addresses: of this machine.

    Raises:
        BadInput: nothing here is what is wanted, or there are several and nothing to choose by.
    """
    reachable = [each for each in addresses if not each.is_loopback]
    if wanted is not None:
        found = [each.address for each in reachable if _fits(each, wanted)]
        if not found:
            raise BadInput(
                f"--interface {wanted}: host {host} has no such interface, address or network; "
                f"it has {_list(reachable)}"
            )
        return found[0]
    named = _addresses_of(host)
    for each in reachable:
        if each.address in named:
            return each.address
    if len(reachable) == 1:
        return reachable[0].address
    known = f"leads to {', '.join(named)}" if named else "is not known"
    raise BadInput(
        f"--interface is needed: host {host} has {_list(reachable)}, and its name {known}; "
        "give the interface, address or network that the other hosts reach"
    )


def _fits(each: Address, wanted: str) -> bool:
    if wanted == each.interface:
        return True
    try:
        return ipaddress.ip_address(each.address) in ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        return False


def _list(addresses: Sequence[Address]) -> str:
    return ", ".join(map(str, addresses)) or "no address but loopback"


def _addresses_of(host: str) -> list[str]:
    try:
        return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, None)))
    except OSError as error:
        logger.debug("host name %s leads nowhere: %s", host, error)
        return []


def _ipv4() -> list[Address]:
    buffer = array.array("B", bytes(_IFREQ * _MAX_ADDRESSES))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("iP", len(buffer), buffer.buffer_info()[0])
        try:
            size = struct.unpack("iP", fcntl.ioctl(probe.fileno(), _SIOCGIFCONF, request))[0]
        except OSError as error:
            raise FLError(f"this machine's network interfaces cannot be listed: {error.strerror}") from error
    raw = buffer.tobytes()
    found = []
    for start in range(0, size, _IFREQ):
        # "eth0:1" is a second address of eth0.
        name = raw[start : start + _NAME_BYTES].split(b"\0")[0].decode().partition(":")[0]
        found.append(Address(name, socket.inet_ntoa(raw[start + _ADDRESS_AT : start + _ADDRESS_AT + 4])))
    return found


def _ipv6() -> list[Address]:
    """Addresses that are unique in a network: a link-local one would need the caller's interface too."""
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    found = []
    for digits, _, _, _, _, name in map(str.split, lines):
        address = ipaddress.IPv6Address(int(digits, 16))
        if not address.is_link_local:
            found.append(Address(name, str(address)))
    return found
