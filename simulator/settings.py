"""The settings of a run, from the command line and a YAML file; checked before anything starts."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, PrivateAttr, ValidationError, create_model
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict, SettingsError

from protos.errors import BadInput
from scheduler.rules.local_optimizers import LOCAL_OPTIMIZERS, LocalRule
from scheduler.rules.registries import ALGORITHMS, FILTERS
from scheduler.rules.samplers import SAMPLERS, TEST_SAMPLERS, Sampler, TestSampler
from scheduler.rules.schedules import LR_SCHEDULES, SERVER_SCHEDULES, Schedule
from scheduler.rules.server_optimizers import SERVER_OPTIMIZERS, ServerOptimizer
from scheduler.state.partition import Exchange
from simulator.launch.launch_environment import launcher_rank
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.settings_choices import (
    choices_help,
    chosen_from,
    make_chosen,
    make_several,
    several_from,
    take_lists,
    without_overruled,
)
from simulator.settings_fields import Uses, adapter, describe_problem, inherit
from simulator.settings_file import read_record, read_settings_file

BAD_USAGE = 2
# Of --resume: go on if there is something to go on from.
AUTO = "auto"
# Settings that change no bit of the results: a run may be resumed with others.  Of files it is the content that counts.
_NO_MEANING = frozenset(["data", "config", "output", "resume", "init", "plan", "checkpoint_every"])
_NO_MEANING |= {"shards", "tune", "shared_memory", "exchange", "progress", "interface", "grace", "cache"}
# Settings that every run uses.
_ALWAYS = _NO_MEANING - {"plan"} | {"rounds", "mode", "seed", "train_last_day", "private"}
# Of numbers that cross the wire as 32 bits, and of what nobody needs more of.
MOST = (1 << 31) - 1


class Settings(BaseSettings):
    """Federated training, simulated: DATA holds one folder a day (YYYYMMDD) with train and test files."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", cli_kebab_case=True, cli_implicit_flags=True, cli_avoid_json=True,
        cli_hide_none_type=True, env_prefix="FLSIM_UNUSED_", env_ignore_empty=True,
    )  # fmt: skip

    data: CliPositionalArg[Path] = Field(description="data folder, with one folder a day (YYYYMMDD)")
    config: Path | None = Field(None, description="YAML file with settings; the command line wins")
    output: Path | None = Field(None, description="folder of the run's record (default: runs/DATE-TIME)")

    resume: Literal["auto"] | Path | None = Field(
        None, description="go on with the run whose record is in this folder, from its last checkpoint; auto: with "
        "that in --output if it has a checkpoint, else start"
    )  # fmt: skip
    checkpoint_every: int | None = Field(
        None, ge=0, le=MOST, description="rounds between checkpoints (default: one a minute; 0: none)"
    )

    grace: float = Field(
        60.0, gt=0, le=MOST, allow_inf_nan=False, description="seconds from SIGTERM or SIGUSR1 until the checkpoint "
        "that they have made must be on disk; half of it is for the round under way"
    )  # fmt: skip

    rounds: int = Field(100, ge=0, le=MOST, description="rounds a day")
    mode: Literal["federated", "centralized"] = Field(
        "federated", description="centralized: the same users one after another, with no averaging"
    )
    seed: int = Field(0, ge=0, lt=1 << 63, description="of every random stream")
    init: Path | None = Field(None, description="NPZ file of initial parameters, such as a record's params/final.npz")
    train_last_day: bool = Field(False, description="train on the last day too, after its test")

    algorithm: Annotated[str, chosen_from(ALGORITHMS)] = Field(
        "fedavg", description="what users train and what is made of it; a name with arguments, as below"
    )
    filter: Annotated[tuple[str, ...], several_from(FILTERS)] = Field(
        (), description="what is done to each user's update and to their mean; several in order, each with the flag"
    )

    sampler: Annotated[str, chosen_from(SAMPLERS)] = Field(
        "uniform", description='how the users of a round are chosen, such as "uniform(20)"'
    )
    sample_num: int = Field(10, ge=1, le=MOST, description="users a round (uniform)")
    min_ins_num: int = Field(1, ge=1, le=MOST, description="examples a user must have to be chosen (uniform, hash)")
    hash_percent: float = Field(1.0, gt=0, le=100, description="per cent of the users that train every round (hash)")
    plan: Path | None = Field(None, description="JSON list of lists of uids, one a round (fixed), such as cohorts.json")

    hold_out_users: float = Field(
        0.0, ge=0, lt=1, allow_inf_nan=False, description="share of the users that never train, and are tested as new "
        "users; by a hash of the seed and the uid"
    )  # fmt: skip

    epochs: int = Field(1, ge=1, le=MOST, description="local epochs a round")
    batch_size: int = Field(5, ge=1, le=MOST, description="examples in a local batch")
    lr: float = Field(1.0, gt=0, allow_inf_nan=False, description="local learning rate")
    lr_schedule: Annotated[str, chosen_from(LR_SCHEDULES)] = Field(
        "constant", description='the local learning rate by the round of the run, such as "step(every=30)"'
    )
    local_optimizer: Annotated[str, chosen_from(LOCAL_OPTIMIZERS)] = Field(
        "sgd", description='how a user moves its parameters by their gradients, such as "sgd(momentum=0.9)"'
    )
    max_grad_norm: float | None = Field(
        5.0, gt=0, allow_inf_nan=False, description="global norm local gradients are clipped to"
    )
    private: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="patterns of the parameters each user keeps to itself, such as 'out.bias' or 'out.*'"
    )

    server_optimizer: Annotated[str, chosen_from(SERVER_OPTIMIZERS)] = Field(
        "fedavg", description='how the mean delta moves the global parameters, such as "fedadam(lr=0.01, beta2=0.99)"'
    )
    server_lr: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="server learning rate: the optimizer's lr (default: its own)"
    )

    server_schedule: Annotated[str, chosen_from(SERVER_SCHEDULES)] = Field(
        "constant", description='the server learning rate by the round of the run, such as "cosine(rounds=100)"'
    )

    test_sampler: Annotated[str, chosen_from(TEST_SAMPLERS)] = Field("all", description="users that are tested")
    eval_every: int = Field(
        0, ge=0, le=MOST, description="also test every so many rounds, on the next day's data (0: never)"
    )

    shards: int | None = Field(
        None, ge=1, le=4096, description="worker processes a simulator (default: the machine's usable cores)"
    )
    tune: bool = Field(True, description="set the shards' environment for speed (allocator, MKL)")
    shared_memory: bool = Field(
        True, description="hand parameters over in memory between processes of one machine, instead of streaming them"
    )
    exchange: Exchange = Field(
        "auto", description="simulators on machines of their own add up their sums among themselves, and hand on the "
        "parameters, instead of each with the scheduler (auto: where it pays)"
    )  # fmt: skip
    interface: str | None = Field(
        None, description="what the hosts of a run reach each other by: name of an interface, address or network "
        "(10.1.0.0/16) (default: the address of the host's name)"
    )  # fmt: skip
    cache: Path | None = Field(
        None, description="folder of your own where what the reader makes of the data is kept for the next start"
    )
    progress: Literal["auto", "bar", "plain", "none"] = Field("auto", description="how rank 0 shows the progress")

    _uses: Uses = PrivateAttr(default_factory=Uses)

    def __init__(self, **values: Any) -> None:
        """Checks the values as those of a command line.

        Raises:
            BadInput: one line that names each setting that cannot be.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise BadInput("; ".join(describe_problem(problem, type(self)) for problem in error.errors())) from error

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: Any, init_settings: Any, env_settings: Any, dotenv_settings: Any, file_secret_settings: Any
    ) -> tuple[Any, ...]:
        """Only what is given, and the command line: the environment sets nothing."""
        return (init_settings,)

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """What a subclass gives a new default, as `lr: float = 0.2`, keeps its checks and its description."""
        super().__pydantic_init_subclass__(**options)
        inherit(cls)

    def __getattribute__(self, name: str) -> Any:
        """Any attribute; of settings it is known which were read, see `idle`."""
        value = super().__getattribute__(name)
        if name[0] != "_" and name in type(self).model_fields:
            # There is none while an object is being made.
            private: dict[str, Any] = getattr(self, "__pydantic_private__", None) or {}
            private.get("_uses", set()).add(name)
        return value

    def meaning(self) -> dict[str, Any]:
        """The settings that the results of a run depend on."""
        return {name: value for name, value in self if name not in _NO_MEANING}

    def is_changed(self, name: str) -> bool:
        """Whether a setting has another value than by default."""
        field = type(self).model_fields[name]
        if field.is_required():
            return True
        default = field.get_default(call_default_factory=True)
        value = vars(self)[name]
        try:
            return bool(value != default and value != adapter(field).validate_python(default))
        except ValidationError:
            return True  # the default that the page gives cannot be

    def idle(self) -> list[str]:
        """Settings that were changed and that nothing has read: they would do nothing.

        Whatever uses a setting reads it before the run begins: the page itself, the trainer
        through its `takes`, or the methods here that make a sampler or an optimizer.
        """
        uses = self._uses
        return [name for name in type(self).model_fields if name not in (_ALWAYS | uses) and self.is_changed(name)]

    def check_record(self) -> None:
        """Raises BadInput if --resume and --output do not go together."""
        if self.resume == AUTO and self.output is None:
            raise BadInput("--resume auto needs --output FOLDER: the folder to go on in, or to start in")

    def make_algorithm(self) -> Any:
        """The algorithm these settings name."""
        return make_chosen(self, "algorithm")

    def make_filters(self) -> tuple[Any, ...]:
        """The filters these settings name, in order."""
        return make_several(self, "filter")

    def make_sampler(self) -> Sampler:
        """The sampler these settings name."""
        sampler: Sampler = make_chosen(self, "sampler")
        return sampler

    def make_test_sampler(self) -> TestSampler:
        """The test sampler these settings name."""
        sampler: TestSampler = make_chosen(self, "test_sampler")
        return sampler

    def make_server_optimizer(self) -> ServerOptimizer:
        """The server optimizer these settings name."""
        optimizer: ServerOptimizer = make_chosen(self, "server_optimizer")
        return optimizer

    def make_server_schedule(self) -> Schedule | None:
        """The schedule of the server's rate; None for a constant one."""
        return None if vars(self)["server_schedule"] == "constant" else make_chosen(self, "server_schedule")

    def make_lr_schedule(self) -> Schedule | None:
        """The schedule of the local rate; None for a constant one."""
        return None if vars(self)["lr_schedule"] == "constant" else make_chosen(self, "lr_schedule")

    def make_local_optimizer(self) -> LocalRule:
        """The local optimizer these settings name."""
        optimizer: LocalRule = make_chosen(self, "local_optimizer")
        return optimizer


AnySettings = TypeVar("AnySettings", bound=Settings)


def parse_settings(kind: type[AnySettings], arguments: Sequence[str] | None = None) -> AnySettings:
    """Settings from the command line; leaves the program with one clear line a mistake.

    Every rank parses; only rank 0 prints.  If a rank alone finds a mistake, such as a file
    that its host does not have, the others learn of it and nobody waits for it.

    Args:
        kind: `Settings`, or a subclass with fields of its own.
        arguments: of the command line; None for the program's own.

    Raises:
        SystemExit: 0 after --help, 2 after a mistake.
    """
    quiet = bool(launcher_rank(os.environ))
    try:
        with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
            return read_settings(kind, sys.argv[1:] if arguments is None else list(arguments))
    except BadInput as error:
        # The name of a file may hold a line's end.
        said = str(error).replace("\n", "\\n")
        if not quiet:
            sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {said}\n")
        if launcher_rank(os.environ) is not None:
            FLSimRoleMaker().refuse(said, BAD_USAGE)
        raise SystemExit(BAD_USAGE) from error


def read_settings(kind: type[AnySettings], arguments: Sequence[str]) -> AnySettings:
    """As `parse_settings`, raising BadInput."""
    finder = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    finder.add_argument("--resume")
    try:
        found = finder.parse_known_args(arguments)[0]
    except argparse.ArgumentError as error:
        raise BadInput(str(error)) from error
    for name, path in vars(found).items():
        if path is not None and not isinstance(path, (Path, str)):
            raise BadInput(f"--{name} needs a path")  # `--config=--`, of which argparse makes a list
    below = read_record(Path(found.resume), kind.model_fields) if found.resume not in (None, AUTO) else {}
    if found.config is not None:
        below |= read_settings_file(found.config, "--config", kind.model_fields)
    arguments, lists = take_lists(arguments)
    below = without_overruled(below, arguments) | lists
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return _parse(kind, arguments, below)
    except SettingsError as error:
        raise BadInput(" ".join(str(error).split())) from error
    except SystemExit as end:
        if not end.code:
            sys.stdout.write(choices_help())
            raise  # --help
        # argparse prints its whole usage before the one line that helps
        raise BadInput(said.getvalue().rpartition("error: ")[2].strip()) from end


def _parse(kind: type[AnySettings], arguments: Sequence[str], below: dict[str, Any]) -> AnySettings:
    source: Any = kind
    if "data" in below:
        # argparse asks for a positional argument unless it has a default
        field = Field(Path(str(below["data"])), description=kind.model_fields["data"].description)
        source = create_model(kind.__name__, __base__=kind, __doc__=kind.__doc__, data=(CliPositionalArg[Path], field))
        below = {name: value for name, value in below.items() if name != "data"}
    made = source(_cli_parse_args=list(arguments), _cli_prog_name=Path(sys.argv[0]).name, **below)
    return kind.model_construct(**{name: getattr(made, name) for name in kind.model_fields})
