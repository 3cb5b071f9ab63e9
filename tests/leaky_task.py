"""The deadly task, which tells a test what only its ranks know: their keys, and where their servers are.

It keeps the scheduler's socket in the file system too, and looks into every message that
a server of rank 0 is sent.
"""

import json
import os
import sys
from pathlib import Path

import deadly_task
import tiny_task

LEAK = "LEAKY_FOLDER"
# Bytes that are looked for in the messages to the scheduler, in hex, by name.
LOOK_FOR = "LEAKY_LOOK_FOR"


def leak(name, told):
    """Appears whole or not at all."""
    path = Path(os.environ[LEAK]) / name
    path.with_suffix(".part").write_text(json.dumps(told), encoding="utf-8")
    path.with_suffix(".part").rename(path)


def set_leaks():
    from protos import patience
    from simulator.launch.role_maker import FLSimRoleMaker
    from simulator.run.rank0 import SchedulerService
    from simulator.run.simulation import Simulation

    secure, join, on_layout, decoder = (
        FLSimRoleMaker.secure, Simulation._join, SchedulerService.on_layout, patience._decoder,
    )  # fmt: skip

    def secured(self):
        secure(self)
        leak(f"keys-{self.rank}.json", {server: ticket.hex() for server, ticket in self.keys.tickets.items()})
        if self.is_scheduler():
            patience._decoder = spying

    def joined(self):
        join(self)
        leak(f"at-{self._role.rank}.json", {"0": self._scheduler, **self._addresses()})

    def kept(self, layout):
        remove, self._sockets.remove = self._sockets.remove, lambda: None
        on_layout(self, layout)
        self._sockets.remove = remove

    patterns = {name: bytes.fromhex(text) for name, text in json.loads(os.environ.get(LOOK_FOR, "{}")).items()}

    def spying(decode, method):
        def spy(data):
            for name, pattern in patterns.items():
                if pattern in data:
                    leak(f"seen-{name}.json", method)
            return decode(data)

        return decoder(spy, method)

    FLSimRoleMaker.secure, Simulation._join, SchedulerService.on_layout = secured, joined, kept


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    set_leaks()
    tiny_task.TinyReader, tiny_task.TinyTrainer = deadly_task.DeadlyReader, deadly_task.DeadlyTrainer
    tiny_task.main()
