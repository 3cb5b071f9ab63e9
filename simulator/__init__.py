"""Simulators: MPI roles, data servers, shards, the day and round loop, the record.  Never Paddle but in shards."""

from simulator.framework import SimulationFramework
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.output.result import RunResult
from simulator.run.function import run
from simulator.settings import Settings, parse_settings

__all__ = ["FLSimRoleMaker", "RunResult", "Settings", "SimulationFramework", "parse_settings", "run"]
