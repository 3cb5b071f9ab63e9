"""What can be chosen by name in a run: setting -> registry; the decorators that a page registers its own classes by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler.rules.algorithm import Algorithm
from scheduler.rules.choices import Registry
from scheduler.rules.filters import Filter
from scheduler.rules.local_optimizers import LOCAL_OPTIMIZERS
from scheduler.rules.samplers import SAMPLERS, TEST_SAMPLERS
from scheduler.rules.schedules import LR_SCHEDULES, SERVER_SCHEDULES
from scheduler.rules.server_optimizers import SERVER_OPTIMIZERS

ALGORITHMS: Registry[Algorithm] = Registry("--algorithm", "algorithm")
FILTERS: Registry[Filter] = Registry("--filter", "filter")

# Setting -> what it chooses from.
REGISTRIES: Mapping[str, Registry[Any]] = {
    "algorithm": ALGORITHMS,
    "filter": FILTERS,
    "sampler": SAMPLERS,
    "test_sampler": TEST_SAMPLERS,
    "server_optimizer": SERVER_OPTIMIZERS,
    "server_schedule": SERVER_SCHEDULES,
    "local_optimizer": LOCAL_OPTIMIZERS,
    "lr_schedule": LR_SCHEDULES,
}

register_algorithm = ALGORITHMS.register
register_filter = FILTERS.register
register_sampler = SAMPLERS.register
register_test_sampler = TEST_SAMPLERS.register
register_server_optimizer = SERVER_OPTIMIZERS.register
register_local_optimizer = LOCAL_OPTIMIZERS.register

register_algorithm("fedavg")(Algorithm)
