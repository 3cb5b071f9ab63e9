"""simulator/settings_choices.py: pieces by name with arguments on the command line, in YAML and by hand."""

import re
import sys
from dataclasses import dataclass

import pytest
import yaml

from application import RecipeSettings
from protos.errors import BadInput
from scheduler import (
    ALGORITHMS,
    FILTERS,
    SAMPLERS,
    SERVER_OPTIMIZERS,
    HashSampler,
    Sampler,
    ServerOptimizer,
    UniformSampler,
    register_algorithm,
    register_filter,
    register_sampler,
    register_server_optimizer,
)
from scheduler.rules.registries import REGISTRIES
from scheduler.rules.server_optimizers import FedAdam, FedAvg
from scheduler.state.rounds import Rules
from simulator.checkpoints.meaning import meaning_of
from simulator.in_force import Pieces, refuse_idle
from simulator.settings import Settings, parse_settings, read_settings


@pytest.fixture(autouse=True)
def program(monkeypatch):
    """A program name; and registries that are as before after each test."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/application.py"])
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_kinds", dict(registry._kinds))
        monkeypatch.setattr(registry, "_makers", dict(registry._makers))


@pytest.fixture
def filters():
    """Two filters."""

    @register_filter("cut")
    @dataclass(frozen=True)
    class Cut:
        """Cuts to a norm."""

        norm: float = 1.0
        by: str = "user"

    @register_filter("noise")
    @dataclass(frozen=True)
    class Noise:
        """Adds some."""

        scales: tuple[float, ...] = (1.0,)

    return Cut, Noise


def read(*arguments, kind=Settings):
    return read_settings(kind, ["data", *map(str, arguments)])


def from_yaml(tmp_path, text, *arguments, kind=Settings):
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    return read("--config", tmp_path / "s.yaml", *arguments, kind=kind)


def refused(call, *arguments, **named):
    with pytest.raises(BadInput) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rate(settings):
    return settings.make_server_optimizer().learning_rate


# -- one choice, however it is written --------------------------------------------------


WRITTEN = ["{fedadam: {learning-rate: 0.5, beta2: 0.9}}", "{fedadam: {lr: 0.5, beta2: 0.9}}",
           "{fedadam: {beta2: 0.9, learning_rate: 0.5}}",
           "fedadam(lr = 0.5, beta2=0.9)", "'fedadam(0.5, beta2=0.9)'"]  # fmt: skip


@pytest.mark.parametrize("written", WRITTEN)
def test_text_and_mapping_are_one_choice(tmp_path, written):
    line = read("--server-optimizer", "fedadam(lr=0.5, beta2=0.9)")
    file = from_yaml(tmp_path, f"server_optimizer: {written}\n")
    assert line.server_optimizer == file.server_optimizer == "fedadam(lr=0.5, beta2=0.9)"
    assert line == Settings(data="data", server_optimizer=yaml.safe_load(written))
    made = file.make_server_optimizer()
    assert (type(made), made.learning_rate, made.beta2, made.beta1) == (FedAdam, 0.5, 0.9, 0.9)

    def meaning(settings):
        rules = Rules(0, settings.make_sampler(), settings.make_test_sampler(), settings.make_server_optimizer())
        return meaning_of(settings, object(), object(), rules)[0]

    assert meaning(line) == meaning(file)


def test_a_record_gives_the_choices_back(tmp_path, filters):
    first = read("--filter", "noise([0.5])", "--filter", "cut(2)", "--sampler", "uniform(3)", "--algorithm", "fedavg")
    shown = yaml.safe_dump(first.model_dump(mode="json", exclude={"config"}))
    again = from_yaml(tmp_path, shown)
    assert again.model_dump(exclude={"config"}) == first.model_dump(exclude={"config"})
    assert (again.filter, again.sampler) == (("noise(scales=[0.5])", "cut(norm=2.0)"), "uniform(sample_num=3)")


def test_filters_are_several_in_order(tmp_path, filters):
    cut, noise = filters
    made = (noise((1.0, 2.0)), cut(2.0, "a, b\"'"), noise())
    texts = ["noise([1, 2])", "cut(norm=2, by='a, b\"\\'')", "noise"]
    line = read("--filter", texts[0], f"--filter={texts[1]}", "--filter", texts[2])
    assert line.make_filters() == made
    assert Settings(data="d", filter=texts).make_filters() == made
    file = from_yaml(tmp_path, yaml.safe_dump({"filter": [{"noise": [[1, 2]]}, *texts[1:]]}))
    assert (file.make_filters(), file.filter) == (made, line.filter)
    for single in ("cut(3)", "{cut: {norm: 3}}", "[cut(3)]"):
        assert from_yaml(tmp_path, f"filter: {single}\n").make_filters() == (cut(3.0),)
    for none in ("[]", ""):
        assert from_yaml(tmp_path, f"filter: {none}\n").make_filters() == ()
    assert read().make_filters() == ()
    # The command line takes the place of the file's.
    assert from_yaml(tmp_path, "filter: [noise, cut(3)]\n", "--filter", "cut").make_filters() == (cut(),)
    assert "--filter: expected one argument" in refused(read, "--filter")


def test_every_kind_of_piece_is_made(filters):
    settings = read("--sampler", "hash(20, min_ins_num=3)", "--test-sampler", "one-percent()")
    assert settings.make_sampler() == HashSampler(20.0, 3)
    assert settings.make_test_sampler() == REGISTRIES["test_sampler"]["one-percent"]()
    assert type(settings.make_algorithm()) is ALGORITHMS["fedavg"]


# -- mistakes ------------------------------------------------------------------------


MISTAKES = [
    ("sampler", "best", "--sampler 'best': there is no sampler 'best'; there are uniform, hash, fixed"),
    (
        "sampler",
        {"uniform": {"users": 3}},
        "uniform takes no argument 'users'; it is uniform(sample_num=10, min_ins_num=1)",
    ),
    ("test_sampler", "all(3)", "--test-sampler 'all(3)': 3 is too much: it is all"),
    ("server_optimizer", "fedadam(lr='x')", "lr is 'x'; it must be a number"),
    ("algorithm", "nothing", "--algorithm 'nothing': there is no algorithm 'nothing'; there are fedavg"),
    ("filter", ["cut", "blur"], "--filter 'blur': there is no filter 'blur'; there are clip, dp, cut, noise"),
    ("filter", 3, "--filter 3: no list"),
    ("sampler", None, "--sampler None: write a name"),
    ("rounds", -1, "--rounds -1: input should be greater than or equal to 0"),
]


@pytest.mark.parametrize(("name", "value", "said"), MISTAKES, ids=[str(each[1]) for each in MISTAKES])
def test_a_mistake_is_the_same_line_by_hand_and_in_a_file(tmp_path, filters, name, value, said):
    by_hand = refused(Settings, data="data", **{name: value})
    assert said in by_hand
    assert refused(from_yaml, tmp_path, yaml.safe_dump({name: value})) == by_hand


def test_all_mistakes_are_said():
    said = refused(Settings, sampler="best", rounds=-1, colour="red")
    assert "--sampler 'best': there is no sampler" in said
    assert "; --rounds -1: " in said
    assert "DATA is missing" in said
    assert "--colour 'red': extra inputs are not permitted" in said
    said = refused(read, "--sampler", "best", "--rounds", "x", "--filter", "blur")
    assert "--rounds 'x': input" in said
    assert "--sampler 'best': there is no" in said
    assert "--filter 'blur': there is no" in said


def test_numbers_that_cannot_be_are_refused_with_the_choice():
    for text, said in (
        ("uniform(0)", "--sampler 'uniform(sample_num=0)': sample_num is 0; it must be 1 at least"),
        ("hash(0)", "--sampler 'hash(percent=0.0)': percent is 0.0; it must be above 0, and 100 at most"),
        ("hash(101)", "percent is 101.0"),
        ("fixed('none.json')", "--plan none.json: No such file"),
    ):
        assert said in refused(read("--sampler", text).make_sampler)
    assert "learning rate 0.0; it must be above 0" in refused(
        read("--server-optimizer", "fedadam(0)").make_server_optimizer
    )


def test_the_environment_sets_nothing_by_hand(monkeypatch):
    monkeypatch.setenv("FLSIM_UNUSED_ROUNDS", "7")
    assert Settings(data="d").rounds == 100


# -- old spellings ----------------------------------------------------------------------


def test_old_spellings_are_arguments():
    assert read("--sampler", "uniform(min_ins_num=2)", "--sample-num", 20).make_sampler() == UniformSampler(20, 2)
    assert read("--sampler", "hash", "--hash-percent", 7).make_sampler() == HashSampler(7.0)
    assert rate(read("--server-optimizer", "fedadam(beta2=0.5)", "--server-lr", 2)) == 2.0


def test_one_argument_is_given_once():
    said = refused(read("--sampler", "uniform(5)", "--sample-num", 20).make_sampler)
    assert said == "--sample-num 20 and --sampler 'uniform(sample_num=5)' both give sample_num: leave one out"
    said = refused(read("--server-optimizer", "fedadam(lr=1)", "--server-lr", 2).make_server_optimizer)
    assert said == "--server-lr 2.0 and --server-optimizer 'fedadam(lr=1.0)' both give lr: leave one out"


def test_the_command_line_wins_over_the_other_spelling_in_a_file(tmp_path):
    for text, arguments, sampler in (
        ("sample_num: 20\nmin_ins_num: 2\n", ["--sampler", "uniform(5)"], UniformSampler(5, 2)),
        ("sample_num: 20\n", ["--sampler=uniform(5)"], UniformSampler(5)),
        ("sampler: {uniform: [20, 2]}\n", ["--sample-num", 5], UniformSampler(5, 2)),
        ("sampler: hash(3)\n", ["--sampler", "uniform", "--sample-num=5"], UniformSampler(5)),
    ):
        assert from_yaml(tmp_path, text, *arguments).make_sampler() == sampler
    text = "sampler: uniform(20)\nsample_num: 5\n"
    assert "both give sample_num" in refused(from_yaml(tmp_path, text).make_sampler)


def test_what_a_piece_does_not_take_is_refused():
    @register_server_optimizer("still")
    class Still(ServerOptimizer):
        def __init__(self):
            super().__init__(1.0)

        def step(self, x, mean, state, cohort_size):
            return x

    for arguments, said in (
        (["--sampler", "hash(2)", "--sample-num", 20], "--sample-num 20 would do nothing with --sampler hash"),
        (["--plan", "p.json"], "--plan p.json would do nothing with --sampler uniform; leave it out"),
        (["--server-optimizer", "still", "--server-lr", 2], "--server-lr 2.0 would do nothing with --server-opti"),
    ):
        settings = read(*arguments)
        made = settings.make_sampler(), settings.make_test_sampler(), settings.make_server_optimizer()
        assert said in refused(refuse_idle, settings, Pieces(object(), object()), Rules(0, *made))


# -- what a page gives by default -----------------------------------------------------------


def test_a_pages_default_choice_holds_for_its_piece():
    assert rate(read(kind=RecipeSettings)) == 1.85
    assert rate(read("--server-optimizer", "fedavg", kind=RecipeSettings)) == 1.85
    assert rate(read("--server-optimizer", "fedavg(lr=2)", kind=RecipeSettings)) == 2.0
    assert rate(read("--server-lr", 0.5, kind=RecipeSettings)) == 0.5
    assert rate(read("--server-optimizer", "fedadam", kind=RecipeSettings)) == 0.01
    assert rate(read("--server-optimizer", "fedadam", "--server-lr", 0.5, kind=RecipeSettings)) == 0.5


def test_a_pages_default_may_be_any_text_of_it(tmp_path):
    class Page(Settings):
        sampler: str = "uniform( 3,min_ins_num = 2)"
        filter: tuple[str, ...] = ()

    settings = read(kind=Page)
    assert settings.make_sampler() == UniformSampler(3, 2)
    assert not settings.is_changed("sampler")
    assert not read("--sampler", "uniform(3, 2)", kind=Page).is_changed("sampler")
    assert from_yaml(tmp_path, "sampler: {uniform: 4}\n", kind=Page).make_sampler() == UniformSampler(4, 2)
    assert read("--sample-num", 5, kind=Page).make_sampler() == UniformSampler(5, 2)


def test_of_two_defaults_the_later_counts():
    class Old(Settings):
        sample_num: int = 7
        server_lr: float = 3.0

    class New(Old):
        sampler: str = "uniform(8)"
        server_optimizer: str = "fedavg(lr=4.0)"

    class Newest(New):
        sample_num: int = 9

    class Recipe(RecipeSettings):
        server_lr: float = 1.0

    assert [read(kind=kind).make_sampler().sample_num for kind in (Old, New, Newest)] == [7, 8, 9]
    assert [rate(read(kind=kind)) for kind in (Old, New, Newest, Recipe)] == [3.0, 4.0, 4.0, 1.0]
    assert read("--sampler", "uniform(2)", kind=Newest).make_sampler().sample_num == 2


def test_a_default_that_cannot_be_is_said_to_be_one():
    class Never(Settings):
        sampler: str = "best"

    said = refused(read, kind=Never)
    assert said.startswith("--sampler 'best': there is no sampler 'best'; there are uniform")
    assert said.endswith("(the default that Never gives)")
    assert read("--sampler", "hash", kind=Never).is_changed("sampler")
    assert read("--sampler", "hash", kind=Never).make_sampler() == HashSampler()


# -- a class of one's own ------------------------------------------------------------------


def test_a_class_of_ones_own_is_chosen_by_name(capsys):
    @register_sampler("mine")
    @dataclass(frozen=True)
    class Mine(Sampler):
        """Those I like."""

        sample_num: int
        percent: float = 50.0

        def sample(self, users, at):
            return list(users.uids[: self.sample_num])

    @register_server_optimizer("bounded")
    class Bounded(ServerOptimizer):
        """FedAvg within a bound."""

        def __init__(self, learning_rate: float, bound: float = 0.1):
            super().__init__(learning_rate)
            self.bound = bound

        def step(self, x, mean, state, cohort_size):
            return x

    @register_algorithm("prox")
    @dataclass(frozen=True)
    class Prox:
        """A pull."""

        mu: float = 0.1

    @register_algorithm("asking")
    class Asking:
        """As a page's own piece, it may ask for settings."""

        def with_settings(self, settings):
            return ("taken", settings.lr)

    # The settings give it what they have, and do not take from it what it has.
    assert read("--sampler", "mine").make_sampler() == Mine(10, 50.0)
    assert read("--sampler", "mine", "--sample-num", 3).make_sampler() == Mine(3, 50.0)
    assert read("--sampler", "mine(4)", "--hash-percent", 2).make_sampler() == Mine(4, 2.0)
    made = read("--server-optimizer", "bounded(bound=1)", "--server-lr", 2).make_server_optimizer()
    assert (made.learning_rate, made.bound) == (2.0, 1.0)
    assert refused(read("--server-optimizer", "bounded").make_server_optimizer) == (
        "--server-optimizer bounded needs --server-lr NUMBER"
    )
    assert read("--algorithm", "prox(mu=1)").make_algorithm() == Prox(1.0)
    assert read("--algorithm", "asking", "--lr", 0.5).make_algorithm() == ("taken", 0.5)
    assert "there are uniform, hash, fixed, mine" in refused(read, "--sampler", "best")
    with pytest.raises(SystemExit):
        parse_settings(Settings, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "mine(sample_num, percent=50.0) Those I like." in shown
    assert "bounded(lr, bound=0.1) FedAvg within a bound." in shown


def test_help_has_all_there_is_and_how_it_is_written(capsys):
    with pytest.raises(SystemExit):
        parse_settings(Settings, ["--help"])
    shown = capsys.readouterr().out
    for registry in (ALGORITHMS, FILTERS, SAMPLERS, SERVER_OPTIMIZERS, REGISTRIES["test_sampler"]):
        part = shown.split(f"\n  {registry.setting}\n")[1].split("\n  --")[0]
        assert re.findall(r"^    (\S.*)$", part, re.M) == [text for text, _ in registry.table()] or ["(none yet)"]


def test_an_object_of_the_page_takes_the_place_of_a_choice(filters):
    cut, _ = filters

    class Own:
        takes = ("epochs",)

    class Taking:
        def with_settings(self, settings):
            return ("taken", settings.lr)

    def play(*arguments, **pieces):
        settings = read(*arguments)
        held = Pieces(object(), object(), **pieces)
        held.take_settings(settings)
        made = settings.make_sampler(), settings.make_test_sampler(), FedAvg()
        refuse_idle(settings, held, Rules(0, *made))
        return held

    assert play("--epochs", 3, "--lr", 0.5, algorithm=Own(), filters=(Taking(), cut())).filters == (
        ("taken", 0.5), cut(),
    )  # fmt: skip
    register_algorithm("other")(Own)
    said = refused(play, "--algorithm", "other", algorithm=Own())
    assert said == "--algorithm other would do nothing: the page sets an algorithm itself; leave it out"
    said = refused(play, "--filter", "cut(2)", filters=(cut(),))
    assert said == "--filter ('cut(norm=2.0)',) would do nothing: the page sets filters itself; leave it out"
    assert "would do nothing" in refused(play, "--filter", "cut(2)", filters=())
