"""The rates of a round, for the record of a run whose rates change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scheduler.rules.schedules import Schedule
from scheduler.state.rounds import Rules

# Rounds of the run before a round -> the columns of its row.
Rates = Callable[[int], Mapping[str, float]]


def scheduled_rates(trainer: Any, rules: Rules) -> Rates:
    """What to call for the rates of a round; those that are constant are left out.

    Args:
        trainer: of the page, with the settings.
        rules: of the run.
    """
    parts: dict[str, tuple[float, Schedule]] = {}
    local = getattr(trainer, "lr_by_round", None)
    if local is not None:
        parts["lr"] = trainer.lr, local
    if rules.schedule is not None:
        parts["server_lr"] = rules.optimizer.learning_rate, rules.schedule
    return lambda step: {name: rate * schedule.at(step) for name, (rate, schedule) in parts.items()}
