"""The global scheduler: sampling, aggregation, server optimizers, rounds; never Paddle."""

from protos.codec import Array, TensorSpec
from protos.errors import BadInput
from scheduler.rules.algorithm import Algorithm, Group, Shapes, check_number
from scheduler.rules.filters import Filter
from scheduler.rules.layers import Layers, Specs
from scheduler.rules.local import Local, Metrics, Update
from scheduler.rules.local_optimizers import LOCAL_OPTIMIZERS, LocalRule
from scheduler.rules.registries import (
    ALGORITHMS,
    FILTERS,
    register_algorithm,
    register_filter,
    register_local_optimizer,
    register_sampler,
    register_server_optimizer,
    register_test_sampler,
)
from scheduler.rules.samplers import (
    SAMPLERS,
    TEST_SAMPLERS,
    AllTestSampler,
    FixedSampler,
    HashSampler,
    NoTestSampler,
    OnePercentTestSampler,
    Round,
    Sampler,
    TestSampler,
    UniformSampler,
    UserTable,
)
from scheduler.rules.schedules import LR_SCHEDULES, SERVER_SCHEDULES, Schedule, register_schedule
from scheduler.rules.server_optimizers import (
    SERVER_OPTIMIZERS,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    ServerOptimizer,
    Sum,
)
from scheduler.rules.server_rule import AroundRule, Float64, ServerRule
from scheduler.rules.step import Step
from scheduler.service.client import SchedulerClient

__all__ = [
    "ALGORITHMS",
    "FILTERS",
    "LOCAL_OPTIMIZERS",
    "LR_SCHEDULES",
    "SAMPLERS",
    "SERVER_OPTIMIZERS",
    "SERVER_SCHEDULES",
    "TEST_SAMPLERS",
    "Algorithm",
    "AllTestSampler",
    "AroundRule",
    "Array",
    "BadInput",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "Filter",
    "FixedSampler",
    "Float64",
    "Group",
    "HashSampler",
    "Layers",
    "Local",
    "LocalRule",
    "Metrics",
    "NoTestSampler",
    "OnePercentTestSampler",
    "Round",
    "Sampler",
    "Schedule",
    "SchedulerClient",
    "ServerOptimizer",
    "ServerRule",
    "Shapes",
    "Specs",
    "Step",
    "Sum",
    "TensorSpec",
    "TestSampler",
    "UniformSampler",
    "Update",
    "UserTable",
    "check_number",
    "register_algorithm",
    "register_filter",
    "register_local_optimizer",
    "register_sampler",
    "register_schedule",
    "register_server_optimizer",
    "register_test_sampler",
]
