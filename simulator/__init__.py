"""Simulators: MPI roles, data servers, shards, the day and round loop, the record.  Never Paddle but in shards."""

from simulator.framework import SimulationFramework
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.settings import Settings, parse_settings

__all__ = ["FLSimRoleMaker", "Settings", "SimulationFramework", "parse_settings"]
