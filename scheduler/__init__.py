"""The global scheduler: sampling, aggregation, server optimizers, rounds; never Paddle."""

from scheduler.rules.samplers import (
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
from scheduler.service.client import SchedulerClient

__all__ = [
    "SERVER_OPTIMIZERS",
    "AllTestSampler",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "FixedSampler",
    "HashSampler",
    "NoTestSampler",
    "OnePercentTestSampler",
    "Round",
    "Sampler",
    "SchedulerClient",
    "ServerOptimizer",
    "Sum",
    "TestSampler",
    "UniformSampler",
    "UserTable",
]
