"""Simulators: MPI roles, data servers, shards, the day and round loop, the record.  Never Paddle but in shards."""

from protos.errors import FLError
from simulator.framework import SimulationFramework
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.output.result import RunResult
from simulator.running.function import run
from simulator.settings import Settings, parse_settings

__all__ = ["FLError", "FLSimRoleMaker", "RunResult", "Settings", "SimulationFramework", "parse_settings", "run"]
