"""The global scheduler: sampling, aggregation, server optimizers, rounds; never Paddle."""

from scheduler.samplers import (
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
from scheduler.scheduler_client import SchedulerClient
from scheduler.server_optimizers import (
    SERVER_OPTIMIZERS,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    ServerOptimizer,
    Sum,
)

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
