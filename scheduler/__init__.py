"""The global scheduler: sampling, aggregation, server optimizers, rounds; never Paddle."""

from protos.codec import Array, TensorSpec
from protos.errors import BadInput
from scheduler.rules.algorithm import Algorithm, Group, Shapes, check_number
from scheduler.rules.filters import Filter
from scheduler.rules.layers import Layers, Specs
from scheduler.rules.local import Local, Metrics, Update
from scheduler.rules.registries import (
    ALGORITHMS,
    FILTERS,
    register_algorithm,
    register_filter,
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
from scheduler.rules.server_rule import Float64, ServerRule
from scheduler.rules.step import Step
from scheduler.service.client import SchedulerClient

__all__ = [
    "ALGORITHMS",
    "FILTERS",
    "SAMPLERS",
    "SERVER_OPTIMIZERS",
    "TEST_SAMPLERS",
    "Algorithm",
    "AllTestSampler",
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
    "Metrics",
    "NoTestSampler",
    "OnePercentTestSampler",
    "Round",
    "Sampler",
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
    "register_sampler",
    "register_server_optimizer",
    "register_test_sampler",
]
