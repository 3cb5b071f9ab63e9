"""Settings are in force or refused: pieces take them, and what nothing has taken is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.errors import BadInput
from scheduler.rules.algorithm import Algorithm, check_local_optimizer
from scheduler.rules.samplers import NoTestSampler
from scheduler.rules.schedules import check_takes_rate
from scheduler.state.rounds import Rules
from simulator.settings import Settings
from simulator.settings_choices import with_settings
from simulator.settings_fields import flag_of, shortened

# The piece a setting is for, if it is for one; and the setting that chooses a piece.
_FOR = {
    **dict.fromkeys(("sampler", "sample_num", "min_ins_num", "hash_percent", "plan"), "sampler"),
    **dict.fromkeys(("test_sampler", "eval_every"), "test_sampler"),
    **dict.fromkeys(("server_optimizer", "server_lr", "server_schedule", "algorithm", "filter"), "optimizer"),
    "algorithm": "algorithm",
    "filter": "filters",
    **dict.fromkeys(("epochs", "batch_size", "lr", "max_grad_norm", "lr_schedule", "local_optimizer"), "trainer"),
}
_CHOSEN_BY = {"sampler": "sampler", "test_sampler": "test_sampler", "optimizer": "server_optimizer"}


@dataclass
class Pieces:
    """What the page has set; all but reader and trainer are made from the settings if it has not."""

    reader: Any = None
    trainer: Any = None
    sampler: Any = None
    test_sampler: Any = None
    optimizer: Any = None
    algorithm: Any = None
    schedule: Any = None
    filters: tuple[Any, ...] | None = None

    def take_settings(self, settings: Settings) -> None:
        """Gives each piece the settings that it asks for.

        Raises:
            BadInput: a piece was given another value than the settings have.
        """
        for name, piece in vars(self).items():
            several = name == "filters" and piece is not None
            made = tuple(with_settings(each, settings) for each in piece) if several else with_settings(piece, settings)
            setattr(self, name, made)


def refuse_idle(settings: Settings, pieces: Pieces, rules: Rules) -> None:
    """Refuses settings that were changed and would do nothing.

    Args:
        settings: of the run; all that use some have read them.
        pieces: of the page.
        rules: made of both.

    Raises:
        BadInput: names each of them, and what would not use it.
    """
    _refuse_together(settings, rules)
    if rules.federated:
        rule = getattr(pieces.trainer, "local_rule", None)
        check_local_optimizer(rules.algorithm, rule, vars(settings)["local_optimizer"])
        if rules.schedule is not None:
            check_takes_rate(rules.optimizer, vars(settings)["server_schedule"])
    idle = settings.idle()
    if idle:
        raise BadInput("; ".join(_said(name, settings, pieces) for name in idle))


def _refuse_together(settings: Settings, rules: Rules) -> None:
    """Settings that are read and that others make idle."""
    every = vars(settings)["eval_every"]
    if not rules.federated:
        for name in ("server_optimizer", "server_lr", "server_schedule", "algorithm", "filter"):
            if settings.is_changed(name):
                flag, value = flag_of(name), vars(settings)[name]
                raise BadInput(f"{flag} {value} needs --mode federated: centralized has no server step")
        if type(rules.algorithm) is not Algorithm or rules.filters:
            raise BadInput("--mode centralized trains as the trainer does: it takes no algorithm and no filters")
    if not settings.is_changed("eval_every"):
        return
    if isinstance(rules.test_sampler, NoTestSampler):
        raise BadInput(f"--eval-every {every} tests during the training, but --test-sampler is none")
    if settings.eval_every > rules.rounds:
        raise BadInput(
            f"--eval-every {every} is more than the {rules.rounds} rounds of a day (--rounds), so it would never test"
        )


def _said(name: str, settings: Settings, pieces: Pieces) -> str:
    """One line on a setting that does nothing."""
    value = vars(settings)[name]
    begin = f"{flag_of(name)} {value if isinstance(value, str | Path) else shortened(value)} would do nothing"
    part = _FOR.get(name)
    if part is None or (part in ("algorithm", "filters") and getattr(pieces, part) is None):
        return f"{begin}: neither the page nor a piece it sets reads settings.{name}"
    piece = getattr(pieces, part)
    if piece is None and part in _CHOSEN_BY:
        chosen = _CHOSEN_BY[part]
        return f"{begin} with {flag_of(chosen)} {vars(settings)[chosen].partition('(')[0]}; leave it out"
    if part in ("algorithm", "filters"):
        return f"{begin}: the page sets {'filters' if part == 'filters' else 'an algorithm'} itself; leave it out"
    names = ", ".join(type(each).__name__ for each in (piece if part == "filters" and piece else [piece]))
    return f"{begin}: {names}, which the page sets, does not use it; leave it out"
