"""The control groups that this process is in, as in a container or a batch job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def own_folders(controller: str, root: Path = CGROUPS, own: Path = OWN) -> Iterator[Path]:
    """The folders of the process's groups and of all above them, of both versions.

    Args:
        controller: of version 1, such as "cpu".
        root: where control groups are mounted.
        own: the process's own, as /proc tells.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mounts = [root, root / "unified"]
        elif controller in controllers.split(","):
            mounts = [root / controllers, root / controller]
        else:
            continue
        for mount in mounts:
            # A container may see its own group as the mount's top, whatever the path.
            folder = mount / path.strip("/")
            yield from (each for each in (folder, *folder.parents) if each == mount or mount in each.parents)
