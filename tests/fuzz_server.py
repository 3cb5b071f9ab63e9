"""The servers of the fuzz test, in a process of their own so that their memory and threads can be told.

Prints the addresses of the scheduler and the data server; at the end of its input, what has failed.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from doors import GATE, RANKS, Socket
from hostile import LiveData

from protos.codec import specs
from scheduler.rules.samplers import AllTestSampler, UniformSampler
from scheduler.rules.server_optimizers import FedAvgM
from scheduler.service.coordinator import Coordinator
from scheduler.service.server import start_scheduler_server
from scheduler.state.partition import Partition
from scheduler.state.plan import DayPlan, Plan
from scheduler.state.rounds import Rules
from simulator.exchange.peer_sums import PeerSums


def make_rules():
    """A day that outlasts the noise."""
    return Rules(7, UniformSampler(6), AllTestSampler(), FedAvgM(0.5), rounds=1_000_000)


def main():
    def nothing(*told):
        pass

    listener = SimpleNamespace(on_layout=nothing, on_initial=nothing, on_record=nothing, offers=list)
    plan = Plan((DayPlan("20200101", None),), make_rules().rounds)
    coordinator = Coordinator(make_rules(), [1, 2], listener, lambda days: plan)
    socket = Socket()
    server, address = start_scheduler_server(coordinator, socket.address, 2, GATE)
    params = {"w": np.zeros(5, np.float32)}
    # A simulator whose next round is one that no noise is of.
    peer_sums = PeerSums(1, Partition(specs(params), (1, 2)), params, 7)
    data = LiveData(Path(sys.argv[1]), {"bias": np.zeros(3, np.float32)}, peer_sums)
    tickets = {rank: GATE.ticket(rank).hex() for rank in RANKS}
    print(json.dumps([address, data.address, tickets]), flush=True)
    sys.stdin.read()
    print(json.dumps([coordinator.failure, [repr(error) for error in data.crashes]]), flush=True)
    coordinator.fail("the test is over")
    server.stop(0).wait(20)
    data.server.stop(0).wait(20)
    socket.close()


if __name__ == "__main__":
    main()
