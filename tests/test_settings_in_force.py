"""Settings are in force in every page, or refused in one line before anything starts."""

import sys

import pytest
from pydantic import Field

from application import RecipeSettings
from protos.errors import BadInput
from scheduler.rules.samplers import NoTestSampler, Sampler, UniformSampler
from scheduler.rules.server_optimizers import FedAvg
from scheduler.state.rounds import Rules
from simulator.in_force import Pieces, refuse_idle
from simulator.settings import Settings, read_settings
from trainer import LanguageModelTrainer, TrainerBase


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["page.py"])


class Trainer(TrainerBase):
    """As short as the README's."""

    def make_model(self):
        raise NotImplementedError


class Own:
    """A trainer that is no `TrainerBase`."""

    def make_model(self):
        raise NotImplementedError


class Chosen(Sampler):
    """A sampler of one's own."""

    def sample(self, users, at):
        return ["a"]


class MySettings(Settings):
    """New defaults, as the README gives them, and a setting of one's own."""

    rounds: int = 40
    lr: float = 0.2
    server_lr: float = 1.0
    mu: float = Field(0.0, ge=0, description="pull")


def play(*arguments, kind=MySettings, **pieces):
    """What a framework does before anything starts; pieces may be made from the settings."""
    settings = read_settings(kind, ["data", *map(str, arguments)])
    made = {name: piece(settings) if callable(piece) else piece for name, piece in pieces.items()}
    pieces = Pieces(**{"reader": object(), "trainer": Trainer(), **made})
    pieces.take_settings(settings)
    rules = Rules(
        settings.seed,
        pieces.sampler or settings.make_sampler(),
        pieces.test_sampler or settings.make_test_sampler(),
        pieces.optimizer or settings.make_server_optimizer(),
        settings.mode == "federated",
        settings.rounds,
        algorithm=settings.make_algorithm(),
        schedule=settings.make_server_schedule(),
    )
    refuse_idle(settings, pieces, rules)
    return pieces.trainer, rules


def refused(*arguments, **pieces):
    with pytest.raises(BadInput) as caught:
        play(*arguments, **pieces)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- local training ----------------------------------------------------------------


def numbers(trainer):
    return trainer.epochs, trainer.batch_size, trainer.lr, trainer.max_grad_norm


def test_the_trainers_settings_are_in_force_without_a_word_in_the_page():
    assert numbers(play()[0]) == (1, 5, 0.2, 5.0)
    given = ["--epochs", 2, "--batch-size", 3, "--lr", 0.5, "--max-grad-norm", "None"]
    assert numbers(play(*given)[0]) == (2, 3, 0.5, None)


def test_a_trainer_by_itself_has_the_defaults_of_the_settings():
    fields = Settings.model_fields
    assert numbers(Trainer()) == tuple(fields[name].default for name in TrainerBase.takes[:4])
    assert (Trainer().lr_schedule, Trainer().local_optimizer) == tuple(
        fields[name].default for name in TrainerBase.takes[4:]
    )
    assert numbers(Trainer(lr=0.1, max_grad_norm=None)) == (1, 5, 0.1, None)
    with pytest.raises(TypeError, match="Trainer has no argument 'momentum'"):
        Trainer(momentum=0.9)


def test_numbers_that_the_page_forwards_must_be_the_settings():
    def all_by_hand(s):
        return Trainer(epochs=s.epochs, batch_size=s.batch_size, lr=s.lr, max_grad_norm=s.max_grad_norm)

    assert numbers(play("--lr", 0.5, trainer=all_by_hand)[0]) == (1, 5, 0.5, 5.0)
    assert numbers(play("--epochs", 2, trainer=lambda s: Trainer(lr=s.lr))[0]) == (2, 5, 0.2, 5.0)
    said = refused(trainer=Trainer(lr=0.1))
    assert said.startswith("Trainer is given lr=0.1, but --lr is 0.2: leave it out of the trainer")
    assert refused("--max-grad-norm", "None", trainer=Trainer(max_grad_norm=1.0)).startswith(
        "Trainer is given max_grad_norm=1.0, but --max-grad-norm is None"
    )


def test_trainers_with_an_init_of_their_own():
    class Keeps(Trainer):
        def __init__(self, mu, **settings):
            super().__init__(**settings)
            self.mu = mu

    class Forgets(Trainer):
        def __init__(self, mu):
            self.mu = mu

    class Decides(Trainer):
        def __init__(self):
            super().__init__(lr=0.1)

    class Says(Trainer):
        lr = 0.1

    assert numbers(play("--lr", 0.5, trainer=Keeps(1))[0]) == (1, 5, 0.5, 5.0)
    assert numbers(play("--lr", 0.5, trainer=Forgets(1))[0]) == (1, 5, 0.5, 5.0)
    assert play(trainer=Forgets(1))[0].shuffle is False
    assert "Decides is given lr=0.1, but --lr is 0.2" in refused(trainer=Decides())
    assert "Says is given lr=0.1, but --lr is 0.2" in refused(trainer=Says())
    assert play("--lr", 0.1, trainer=Says())[0].lr == 0.1


def test_a_trainer_may_take_settings_of_its_own_and_leave_out_others():
    class Prox(Trainer):
        takes = (*Trainer.takes, "mu")

    class Adam(Trainer):
        takes = ("epochs", "batch_size")

    assert play("--mu", 0.5, trainer=Prox())[0].mu == 0.5
    assert refused("--mu", 0.5) == "--mu 0.5 would do nothing: neither the page nor a piece it sets reads settings.mu"
    assert refused("--lr", 0.5, trainer=Adam()) == (
        "--lr 0.5 would do nothing: Adam, which the page sets, does not use it; leave it out"
    )
    assert "Prox takes the setting 'mu', which Settings does not have" in refused(kind=Settings, trainer=Prox())


def test_a_trainer_that_takes_none_of_them():
    play(trainer=Own())
    play("--lr", 0.2, trainer=Own())  # the default, as a record has it
    said = refused("--lr", 0.5, "--epochs", 2, trainer=Own())
    assert "--lr 0.5 would do nothing: Own, which the page sets, does not use it" in said
    assert "--epochs 2 would do nothing: Own" in said


def test_the_page_answers_for_what_it_reads_itself():
    class Holder(Own):
        def __init__(self, settings):
            self.settings = settings

    def reads(settings):
        return [Own(), settings.lr][0]

    play("--lr", 0.5, trainer=reads)
    play("--lr", 0.5, trainer=Holder)
    own = Own()
    own.takes = ("lr",)
    play("--lr", 0.5, trainer=own)


def test_the_pages_own_trainer_stays_as_it_was():
    mine = Trainer()
    mine._local_sgd = "of an earlier use"
    for lr in (0.5, 0.25):
        taken, _ = play("--lr", lr, trainer=mine)
        assert taken.lr == lr
        assert "_local_sgd" not in vars(taken)
    assert mine.lr == 1.0


# -- samplers, optimizers, tests ------------------------------------------------------


def test_what_the_chosen_sampler_does_not_use_is_refused(tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text('[["a"]]')
    fixed = ["--sampler", "fixed", "--plan", plan]
    assert refused("--sampler", "hash", "--sample-num", 20) == (
        "--sample-num 20 would do nothing with --sampler hash; leave it out"
    )
    assert "--hash-percent 3.0 would do nothing with --sampler uniform" in refused("--hash-percent", 3)
    assert "--min-ins-num 3 would do nothing with --sampler fixed" in refused(*fixed, "--min-ins-num", 3)
    assert "--sample-num 3 would do nothing with --sampler fixed" in refused(*fixed, "--sample-num", 3)
    play(*fixed, "--sample-num", 10)
    play("--sampler", "hash", "--hash-percent", 4, "--min-ins-num", 2)


def test_what_the_pages_own_pieces_do_not_use_is_refused():
    assert refused("--sample-num", 20, sampler=Chosen()) == (
        "--sample-num 20 would do nothing: Chosen, which the page sets, does not use it; leave it out"
    )
    assert "--sampler hash would do nothing: Chosen" in refused("--sampler", "hash", sampler=Chosen())
    assert "--plan p would do nothing: Chosen" in refused("--plan", "p", sampler=Chosen())
    play("--sample-num", 20, sampler=lambda s: UniformSampler(s.sample_num))
    assert "--server-lr 2.0 would do nothing: FedAvg" in refused("--server-lr", 2, optimizer=FedAvg())
    assert "--server-optimizer sum would do nothing" in refused("--server-optimizer", "sum", optimizer=FedAvg())
    play("--server-lr", 2, optimizer=lambda s: FedAvg(s.server_lr))
    assert "--test-sampler none would do nothing" in refused("--test-sampler", "none", test_sampler=UniformSampler())


def test_tests_that_would_never_come_are_refused():
    none = ["--test-sampler", "none"]
    assert refused("--eval-every", 3, *none).startswith("--eval-every 3 tests during the training, but")
    assert "but --test-sampler is none" in refused("--eval-every", 3, test_sampler=NoTestSampler())
    assert refused("--eval-every", 41) == (
        "--eval-every 41 is more than the 40 rounds of a day (--rounds), so it would never test"
    )
    play("--eval-every", 40)
    play(*none)


def test_centralized_mode_has_no_server_step():
    central = ["--mode", "centralized"]
    assert refused(*central, "--server-lr", 2).startswith("--server-lr 2.0 needs --mode federated")
    assert refused(*central, "--server-optimizer", "sum").startswith("--server-optimizer sum needs --mode federated")
    # Whoever reads it.
    assert "needs --mode federated" in refused(*central, "--server-lr", 2, optimizer=lambda s: FedAvg(s.server_lr))
    play(*central)
    play(*central, "--server-lr", 1)


def test_a_method_of_the_settings_may_read_them_too():
    class Momentum(Settings):
        momentum: float = 0.9

        def make_server_optimizer(self):
            return FedAvg(1 - self.momentum) if self.server_optimizer == "fedavg" else super().make_server_optimizer()

    play("--momentum", 0.5, kind=Momentum)
    assert "--momentum 0.5 would do nothing" in refused("--momentum", 0.5, "--server-optimizer", "sum", kind=Momentum)
    assert "--server-lr 2.0 would do nothing with --server-optimizer fedavg" in refused("--server-lr", 2, kind=Momentum)


def test_who_has_read_settings_makes_no_difference_to_them():
    one, other = (read_settings(MySettings, ["data"]) for _ in range(2))
    assert one.lr == 0.2
    assert one == other
    assert one.model_dump() == other.model_dump()


# -- subclasses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "-5"], "--rounds '-5': input should be greater than or equal to 0"),
        (["--lr", "nan"], "--lr 'nan': input should be a finite number"),
        (["--lr", "-1"], "--lr '-1': input should be greater than 0"),
        (["--server-lr", "0"], "--server-lr '0': input should be greater than 0"),
        (["--rounds", "99999999999"], "--rounds '99999999999': input should be less than or equal to 2147483647"),
    ],
)
def test_a_new_default_keeps_the_checks(arguments, said):
    with pytest.raises(BadInput) as caught:
        read_settings(MySettings, ["data", *arguments])
    assert str(caught.value) == said


def test_a_new_default_keeps_the_description(capsys):
    with pytest.raises(SystemExit):
        read_settings(MySettings, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("rounds", "lr", "server_lr"):
        assert Settings.model_fields[name].description in shown
    assert "rounds a day (default: 40)" in shown


def test_a_subclass_of_a_subclass_keeps_them_all():
    class Fewer(MySettings):
        rounds: int = Field(10, le=50)

    class Fewest(Fewer):
        rounds: int = 5

    assert read_settings(Fewest, ["d"]).rounds == 5
    for value, said in (("-1", "greater than or equal to 0"), ("51", "less than or equal to 50")):
        with pytest.raises(BadInput, match=f"--rounds '{value}': input should be {said}"):
            read_settings(Fewest, ["d", "--rounds", value])


def test_no_type_widens_what_is_allowed():
    class Wide(Settings):
        rounds: float = 3
        lr: float | None = 0.5
        seed: str = "7"

    class Narrow(Settings):
        lr: int = 2
        server_lr: float = 1.0

    got = read_settings(Wide, ["d"])
    assert (got.rounds, got.lr, got.seed) == (3, 0.5, 7)
    for arguments, said in (
        (["--rounds", "1.5"], "--rounds '1.5': input should be a valid integer"),
        (["--lr", "null"], "--lr 'null': input should be a valid number"),
        (["--seed", "x"], "--seed 'x': input should be a valid integer"),
    ):
        with pytest.raises(BadInput, match=said):
            read_settings(Wide, ["d", *arguments])
    assert read_settings(Narrow, ["d", "--lr", "3"]).lr == 3
    with pytest.raises(BadInput, match="--lr '0': input should be greater than 0"):
        read_settings(Narrow, ["d", "--lr", "0"])


def test_a_default_that_cannot_be_is_said_to_be_one():
    class Never(Settings):
        rounds: int = -40

    with pytest.raises(BadInput) as caught:
        read_settings(Never, ["d"])
    assert (
        str(caught.value) == "--rounds -40 (the default that Never gives): input should be greater than or equal to 0"
    )
    assert read_settings(Never, ["d", "--rounds", "3"]).rounds == 3


def test_the_main_jobs_page_forwards_nothing():
    trainer, rules = play("--lr", 0.5, "--max-grad-norm", 0.1, kind=RecipeSettings, trainer=LanguageModelTrainer())
    assert numbers(trainer) == (1, 5, 0.5, 0.1)
    assert rules.optimizer.learning_rate == 1.85


# -- local optimizers and schedules ----------------------------------------------------


def test_the_local_optimizer_and_the_schedules_are_in_force_by_themselves():
    trainer, rules = play()
    assert (trainer.local_rule, trainer.lr_by_round, rules.schedule) == (None, None, None)
    assert rules.server_rule is rules.optimizer
    given = ["--local-optimizer", "sgd(momentum=0.9)", "--lr-schedule", "step(3)", "--server-schedule", "warmup(2)"]
    trainer, rules = play(*given, "--algorithm", "fednova")
    assert trainer.local_rule.momentum == 0.9
    assert (trainer.lr_by_round.every, rules.schedule.rounds, rules.optimizer.learning_rate) == (3, 2, 1.0)
    again = trainer.with_settings(read_settings(MySettings, ["data", *given]))
    assert again.local_rule is trainer.local_rule


def test_a_trainer_by_itself_has_the_optimizer_that_it_is_given():
    assert Trainer(local_optimizer="adam").local_rule.beta1 == 0.9
    assert Trainer(local_optimizer="sgd()").local_rule is None
    assert Trainer(lr_schedule="step(3)").lr_by_round.every == 3
    assert "Trainer is given local_optimizer='adam', but --local-optimizer is 'sgd'" in refused(
        trainer=Trainer(local_optimizer="adam")
    )


def test_a_page_may_give_them_by_default():
    class Momentum(MySettings):
        local_optimizer: str = "sgd(momentum=0.9)"
        lr_schedule: str = "step(3)"

    assert play(kind=Momentum)[0].local_rule.momentum == 0.9
    decays = play("--local-optimizer", "sgd(weight_decay=0.1)", kind=Momentum)[0].local_rule
    assert (decays.momentum, decays.weight_decay) == (0.9, 0.1)
    assert play("--lr-schedule", "constant", kind=Momentum)[0].lr_by_round is None


def test_where_they_would_do_nothing_or_be_wrong_they_are_refused():
    class Mine(Trainer):
        def make_optimizer(self, model):
            raise NotImplementedError

    class Rule:
        weighted = True

    assert refused("--local-optimizer", "adam", trainer=Mine()) == (
        "--local-optimizer adam would do nothing: Mine, which the page sets, does not use it; leave it out"
    )
    assert play(trainer=Mine())[0].local_rule is None
    for flag, value in (("--local-optimizer", "adam"), ("--lr-schedule", "step(every=3)")):
        assert refused(flag, value, trainer=Own()).startswith(f"{flag} {value} would do nothing: Own,")
    assert refused("--local-optimizer", "adam", "--algorithm", "fednova").startswith("--local-optimizer adam: FedNova")
    assert refused("--server-schedule", "warmup(2)", optimizer=Rule()).startswith(
        "--server-schedule warmup(rounds=2) would do nothing: Rule has no learning_rate"
    )
    assert refused("--server-schedule", "warmup(2)", "--mode", "centralized") == (
        "--server-schedule warmup(rounds=2) needs --mode federated: centralized has no server step"
    )
