"""Who is told of a run's rounds as they end, and may have it stop or keep parameters."""

from scheduler.state.rounds import Decision, RoundRecord
from simulator.callbacks.best_parameters import BestParameters
from simulator.callbacks.callback import CONTINUE, KEEP, TEST_NOW, Callback, RunInfo, stop
from simulator.callbacks.early_stopping import EarlyStopping
from simulator.callbacks.tensorboard import TensorBoard

__all__ = [
    "CONTINUE",
    "KEEP",
    "TEST_NOW",
    "BestParameters",
    "Callback",
    "Decision",
    "EarlyStopping",
    "RoundRecord",
    "RunInfo",
    "TensorBoard",
    "stop",
]
