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
    from simulator.running import modelled, simulation
    from simulator.running.rank0 import SchedulerService

    secure, init, join, on_layout, decoder = (
        FLSimRoleMaker.secure, simulation.Simulation.__init__, modelled.join, SchedulerService.on_layout,
        patience._decoder,
    )  # fmt: skip
    at = {}

    def made(self, role, settings, rules, task, scheduler, *more, **options):
        at["0"] = scheduler
        init(self, role, settings, rules, task, scheduler, *more, **options)

    def secured(self):
        secure(self)
        leak(f"keys-{self.rank}.json", {server: ticket.hex() for server, ticket in self.keys.tickets.items()})
        if self.is_scheduler():
            patience._decoder = spying

    def joined(machine):
        found = join(machine)
        leak(f"at-{machine.member.role.rank}.json", {**at, **found.addresses})
        return found

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

    FLSimRoleMaker.secure, simulation.Simulation.__init__, SchedulerService.on_layout = secured, made, kept
    simulation.join = joined


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    set_leaks()
    tiny_task.TinyReader, tiny_task.TinyTrainer = deadly_task.DeadlyReader, deadly_task.DeadlyTrainer
    tiny_task.main()
