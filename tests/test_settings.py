"""simulator/settings.py: the recipe's defaults, the command line over a file, one line a mistake."""

import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field, ValidationError
from running import TINY, run

from application import RecipeSettings
from protos.errors import BadInput
from scheduler.rules.samplers import (
    AllTestSampler,
    FixedSampler,
    HashSampler,
    NoTestSampler,
    OnePercentTestSampler,
    UniformSampler,
)
from scheduler.rules.server_optimizers import SERVER_OPTIMIZERS
from scheduler.service.messages import Layout
from simulator.output.record import RunRecord
from simulator.settings import Settings, parse_settings, read_settings


class Mine(Settings):
    """A task of one's own."""

    alpha: float = Field(0.5, gt=0, description="how much of it")
    kind: Literal["near", "far"] = Field("near", description="which of them")


@pytest.fixture(autouse=True)
def program(monkeypatch):
    """A program name; and streams that are put back, whatever is done to them."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/application.py"])
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)


def read(*arguments, kind=Settings):
    return read_settings(kind, ["data", *arguments])


def yaml_file(tmp_path, content):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


# -- defaults and flags ------------------------------------------------------------


def test_the_defaults_are_the_recipe():
    recipe = {
        "data": Path("data"), "config": None, "output": None, "rounds": 100, "mode": "federated", "seed": 0,
        "init": None, "train_last_day": False, "sampler": "uniform", "sample_num": 10, "min_ins_num": 1,
        "hash_percent": 1.0, "plan": None, "epochs": 1, "batch_size": 5, "lr": 1.0, "max_grad_norm": 5.0,
        "private": (), "server_optimizer": "fedavg", "server_lr": None, "test_sampler": "all", "eval_every": 0,
        "shards": None, "tune": True, "progress": "auto",
    }  # fmt: skip
    assert recipe.items() <= read().model_dump().items()
    optimizer = read().make_server_optimizer()
    assert (optimizer.name, optimizer.learning_rate) == ("fedavg", 1.0)


def test_every_setting_has_a_flag():
    got = read(
        "--rounds", "3", "--mode", "centralized", "--seed", "4", "--init", "a.npz", "--train-last-day",
        "--sampler", "hash", "--sample-num", "5", "--min-ins-num", "6", "--hash-percent", "7.5", "--plan", "p.json",
        "--epochs", "8", "--batch-size", "9", "--lr", "0.1", "--max-grad-norm", "0.2", "--private", "out.*",
        "--private", "lstm.bias", "--server-optimizer", "fedadam", "--server-lr", "0.3", "--test-sampler", "none",
        "--eval-every", "11", "--shards", "12", "--no-tune", "--progress", "plain", "--output", "out",
    )  # fmt: skip
    given = {
        "data": Path("data"), "config": None, "output": Path("out"), "rounds": 3, "mode": "centralized", "seed": 4,
        "init": Path("a.npz"), "train_last_day": True, "sampler": "hash", "sample_num": 5, "min_ins_num": 6,
        "hash_percent": 7.5, "plan": Path("p.json"), "epochs": 8, "batch_size": 9, "lr": 0.1, "max_grad_norm": 0.2,
        "private": ("out.*", "lstm.bias"), "server_optimizer": "fedadam", "server_lr": 0.3, "test_sampler": "none",
        "eval_every": 11, "shards": 12, "tune": False, "progress": "plain",
    }  # fmt: skip
    assert given.items() <= got.model_dump().items()


def test_flags_may_come_before_the_data_folder():
    got = read_settings(Settings, ["--rounds", "3", "--private", "a", "folder"])
    assert (got.data, got.rounds, got.private) == (Path("folder"), 3, ("a",))


def test_the_environment_sets_nothing(monkeypatch):
    for name in ("ROUNDS", "rounds", "SEED", "LR", "FLSIM_ROUNDS", "FLSIM_UNUSED_ROUNDS"):
        monkeypatch.setenv(name, "7")
    assert (read().rounds, read().seed, read().lr) == (100, 0, 1.0)


def test_settings_do_not_change():
    got = read()
    with pytest.raises(ValidationError, match="frozen"):
        got.rounds = 3
    assert got.rounds == 100


def test_a_subclass_brings_settings_of_its_own(tmp_path):
    got = read("--alpha", "2", "--rounds", "3", kind=Mine)
    assert (type(got), got.alpha, got.kind, got.rounds) == (Mine, 2.0, "near", 3)
    got = read("--config", yaml_file(tmp_path, "alpha: 3\nkind: far\n"), kind=Mine)
    assert (got.alpha, got.kind) == (3.0, "far")
    with pytest.raises(BadInput, match=r"--kind 'up': input should be 'near' or 'far'"):
        read("--kind", "up", kind=Mine)
    with pytest.raises(BadInput, match="unknown setting 'alpha'"):
        read("--config", yaml_file(tmp_path, "alpha: 3\n"))


# -- YAML --------------------------------------------------------------------------


def test_a_file_sets_what_the_command_line_leaves_open(tmp_path):
    path = yaml_file(tmp_path, "rounds: 7\nsample-num: 3\nprivate: [a, b]\nmax_grad_norm: null\ndata: elsewhere\n")
    got = read("--config", path, "--rounds", "8", "--private", "c")
    assert (got.rounds, got.sample_num, got.private, got.max_grad_norm) == (8, 3, ("c",), None)
    assert (got.data, got.config) == (Path("data"), Path(path))
    assert read("--config", path).private == ("a", "b")


@pytest.mark.parametrize("content", ["", "# nothing\n", "settings:\n"])
def test_an_empty_file_sets_nothing(tmp_path, content):
    path = yaml_file(tmp_path, content)
    assert read("--config", path).model_dump(exclude={"config"}) == read().model_dump(exclude={"config"})


def test_a_records_config_can_be_given_back(tmp_path):
    first = read("--rounds", "3", "--private", "out.*", "--init", "a.npz", "--max-grad-norm", "None")
    record = RunRecord(tmp_path / "run", first.model_dump(mode="json", exclude={"config"}))
    record.on_layout(Layout((), ("20200101",)))
    again = read("--config", str(tmp_path / "run" / "config.yaml"))
    assert again.model_dump(exclude={"config"}) == first.model_dump(exclude={"config"})


def test_the_data_folder_may_come_from_the_file_too(tmp_path):
    path = yaml_file(tmp_path, "settings:\n  data: elsewhere\n  rounds: 3\n")
    assert read_settings(Settings, ["--config", path]).data == Path("elsewhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rounds: many\n", "--rounds 'many': input should be a valid integer"),
        ("rounds: -1\n", "--rounds -1: input should be greater than or equal to 0"),
        ("sampler: best\n", "--sampler 'best': there is no sampler 'best'; there are uniform, hash, fixed"),
        ("private: a\n", "--private 'a': input should be a valid tuple"),
        ("lr: 0\nsample_num: 0\n", "--sample-num 0: input should be greater than or equal to 1; --lr 0: input"),
        (
            "bogus: 1\n",
            "settings.yaml: unknown setting 'bogus'; known are data, config, output, resume",
        ),
        ("- rounds\n", "settings.yaml: expected settings as name: value"),
        ("settings: 3\n", "settings.yaml: expected settings as name: value"),
        ("settings:\n- 3\n", "settings.yaml: expected settings as name: value"),
        ("rounds: [", "settings.yaml: not YAML: while parsing"),
        ("!!python/object/apply:os.getcwd []\n", "settings.yaml: not YAML: could not determine a constructor"),
        (b"rounds: \xff\xfe\n", "settings.yaml: not YAML"),
    ],
)
def test_a_mistake_in_a_file_is_said_in_one_line(tmp_path, content, message):
    with pytest.raises(BadInput) as caught:
        read("--config", yaml_file(tmp_path, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


DAMAGED = {
    "nested": (b"rounds: " + b"[" * 100_000, "line 1: nested deeper than 20 levels"),
    "nested maps": (b"{a: " * 100_000, "line 1: nested deeper than 20 levels"),
    "a bomb": (
        b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (c + 1, c + 1, c, c) for c in range(97, 120))
        + b"private: *z\n", "line 2: aliases (*name) are not read here; write it out",
    ),
    "what holds itself": (b"private: &a [*a]\n", "line 1: aliases (*name) are not read here"),
    "twice": (b"rounds: 3\nrounds: 4\n", "line 2: 'rounds' stands there twice"),
    "twice in two ways": (b"sample-num: 3\nsample_num: 4\n", "line 2: 'sample_num' stands there twice"),
    "a long number": (b"rounds: " + b"9" * 5000, "a value cannot be read: Exceeds the limit"),
    "a date that is none": (b"init: 2020-13-45\n", "a value cannot be read: month must be in 1..12"),
    "a zero character": (b'output: "a\\0b"\n', "'a\\x00b' holds a zero character"),
    "no text": (b'output: "\\ud800"\n', "'\\ud800' is no valid text"),
    "data of another kind": (b"data: {a: 1}\n", "data must be the path of a folder"),
    "a file within": (b"config: other.yaml\n", "config is for the command line only: --config other.yaml"),
    "a key of another kind": (b"[1]: 3\n", "not YAML: while constructing a mapping"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content, said):
    path = yaml_file(tmp_path, content)
    with pytest.raises(BadInput) as caught:
        read("--config", path)
    assert str(caught.value).startswith(f"--config {path}: {said}")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_long_value_is_cut(tmp_path):
    with pytest.raises(BadInput, match=r"--rounds 'x{79}\.\.\.: input should be a valid integer"):
        read("--config", yaml_file(tmp_path, "rounds: " + "x" * 100_000))
    with pytest.raises(BadInput, match="--seed a number of thousands of digits: input"):
        read("--config", yaml_file(tmp_path, "seed: 0x" + "f" * 50_000))


def test_a_file_without_end_is_no_file_of_settings():
    with pytest.raises(BadInput, match="--config /dev/zero: larger than 8 MiB: no file of settings"):
        read("--config", "/dev/zero")


@pytest.mark.parametrize("flag", ["--config", "--resume"])
def test_a_path_that_cannot_be(flag):
    with pytest.raises(BadInput, match=f"{flag} x+.*: File name too long"):
        read(flag, "x" * 5000)
    with pytest.raises(BadInput, match=f"{flag} needs a path"):
        read(f"{flag}=--")


@pytest.mark.parametrize(("name", "reason"), [("none.yaml", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, reason):
    with pytest.raises(BadInput, match=rf"--config {tmp_path / name}: {reason}"):
        read("--config", str(tmp_path / name))


# -- mistakes on the command line --------------------------------------------------

MISTAKES = {
    "a number below": (["data", "--rounds", "-1"], ["--rounds", "'-1'", "greater than or equal to 0"]),
    "no number": (["data", "--sample-num", "x"], ["--sample-num", "'x'", "valid integer"]),
    "no whole number": (["data", "--seed", "1.5"], ["--seed", "'1.5'", "valid integer"]),
    "a rate of zero": (["data", "--lr", "0"], ["--lr", "'0'", "greater than 0"]),
    "a rate that is none": (["data", "--server-lr", "nan"], ["--server-lr", "'nan'", "finite number"]),
    "more than all": (["data", "--hash-percent", "101"], ["--hash-percent", "'101'", "less than or equal to 100"]),
    "no shards": (["data", "--shards", "0"], ["--shards", "'0'", "greater than or equal to 1"]),
    "a sampler": (["data", "--sampler", "best"], ["--sampler", "'best'", "there are uniform, hash, fixed"]),
    "a test sampler": (["data", "--test-sampler", "few"], ["--test-sampler", "all, one-percent, none"]),
    "a mode": (["data", "--mode", "solo"], ["--mode", "'solo'", "'federated' or 'centralized'"]),
    "an optimizer": (["data", "--server-optimizer", "sgd"], ["--server-optimizer", *SERVER_OPTIMIZERS]),
    "two mistakes": (["data", "--rounds", "x", "--lr", "y"], ["--rounds 'x'", "--lr 'y'"]),
    "no data": ([], ["DATA"]),
    "an unknown flag": (["data", "--bogus", "3"], ["--bogus"]),
    "a flag without its value": (["data", "--rounds"], ["--rounds"]),
    "two folders": (["data", "more"], ["more"]),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_ends_the_program_with_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        parse_settings(Settings, arguments)
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert said.out == ""
    line = said.err.splitlines()[-1]
    assert line.startswith("application.py: error: ")
    assert all(word in line for word in words)
    assert said.err == line + "\n"


def test_only_rank_0_speaks_of_a_mistake():
    done = run(TINY, "data", "--rounds", "x", ranks=3, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("tiny_task.py: error: --rounds 'x': ")
    assert done.stderr.count("\n") == 1


def test_parsing_leaves_redirected_output_as_it_was(capsys):
    before = sys.stdout, sys.stderr
    assert parse_settings(Settings, ["data", "--rounds", "3"]).rounds == 3
    assert (sys.stdout, sys.stderr) == before


# -- help --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Settings, Mine])
def test_help_documents_every_setting(capsys, kind):
    with pytest.raises(SystemExit) as caught:
        parse_settings(kind, ["--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert " ".join(kind.__doc__.split()) in shown
    for name, field in kind.model_fields.items():
        assert field.description
        flag = "DATA" if name == "data" else f"--{name.replace('_', '-')}"
        assert f" {flag} " in shown.replace(",", " ")
        assert field.description in shown


# -- pieces ------------------------------------------------------------------------


def test_settings_make_the_pieces_they_name(tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text('[["a"]]', encoding="utf-8")
    assert read("--sample-num", "3", "--min-ins-num", "2").make_sampler() == UniformSampler(3, 2)
    assert read("--sampler", "hash", "--hash-percent", "4", "--min-ins-num", "2").make_sampler() == HashSampler(4.0, 2)
    fixed = read("--sampler", "fixed", "--plan", str(plan)).make_sampler()
    assert fixed == FixedSampler((("a",),), str(plan))
    with pytest.raises(BadInput, match="--sampler fixed needs --plan FILE"):
        read("--sampler", "fixed").make_sampler()
    tests = {"all": AllTestSampler(), "one-percent": OnePercentTestSampler(), "none": NoTestSampler()}
    assert {name: read("--test-sampler", name).make_test_sampler() for name in tests} == tests


@pytest.mark.parametrize("name", SERVER_OPTIMIZERS)
def test_settings_make_every_server_optimizer(name):
    own = SERVER_OPTIMIZERS[name]().learning_rate
    optimizer = read("--server-optimizer", name).make_server_optimizer()
    assert (type(optimizer), optimizer.learning_rate) == (SERVER_OPTIMIZERS[name], own)
    assert read("--server-optimizer", name, "--server-lr", "0.25").make_server_optimizer().learning_rate == 0.25


def test_plain_values_survive_yaml():
    """What is written to config.yaml."""
    shown = read("--private", "a").model_dump(mode="json")
    assert yaml.safe_load(yaml.safe_dump(shown)) == shown


def test_the_main_jobs_server_learning_rate_is_the_recipes():
    rates = {name: RecipeSettings(data="d", server_optimizer=name).make_server_optimizer().learning_rate
             for name in ("fedavg", "fedadam")}  # fmt: skip
    assert rates == {"fedavg": 1.85, "fedadam": 0.01}
    assert RecipeSettings(data="d", server_lr=0.5).make_server_optimizer().learning_rate == 0.5
