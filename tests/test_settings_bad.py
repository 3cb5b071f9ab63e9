"""Every setting with values that cannot be: one line with the setting's name, the value and what is allowed."""

import sys

import pytest

from application import RecipeSettings
from protos.errors import BadInput
from scheduler.rules.server_optimizers import SERVER_OPTIMIZERS
from scheduler.state.rounds import Rules
from simulator.in_force import Pieces, refuse_idle
from simulator.settings import MOST, Settings, read_settings
from trainer import LanguageModelTrainer

ABOVE = "input should be greater than 0"
WHOLE = "input should be a valid integer"
COUNT = {"-1": "greater than or equal to 1", "0": "greater than or equal to 1", "x": WHOLE, "1.5": WHOLE, "nan": WHOLE,
         "inf": WHOLE, "99999999999999999999": f"less than or equal to {MOST}"}  # fmt: skip
FROM_0 = {"-1": "greater than or equal to 0", **{value: text for value, text in COUNT.items() if value not in "-10"}}
RATE = {"-1": ABOVE, "0": ABOVE, "nan": "", "inf": "finite number", "x": "valid number", "1e999": "finite number"}
SWITCH = {"maybe": "valid boolean"}
# Setting -> bad value -> what is said of it.
BAD = {
    "rounds": FROM_0,
    "mode": {"solo": "'federated' or 'centralized'"},
    "seed": {**FROM_0, "99999999999999999999": "less than 9223372036854775808"},
    "train_last_day": SWITCH,
    "algorithm": {"bestprox": "there is no algorithm 'bestprox'; there are "},
    "filter": {"blur(1)": "there is no filter 'blur'; there are "},
    "sampler": {
        "best": "there is no sampler 'best'; there are uniform, hash, fixed",
        "uniform(": "write a name, with arguments if it takes some",
        "uniform(users=3)": "uniform takes no argument 'users'; it is uniform(sample_num=10, min_ins_num=1)",
        "uniform(1.5)": "sample_num is 1.5; it must be a whole number",
    },
    "sample_num": COUNT,
    "min_ins_num": COUNT,
    "hash_percent": {
        "0": ABOVE,
        "-1": ABOVE,
        "101": "less than or equal to 100",
        "nan": "",
        "inf": "100",
        "x": "number",
    },
    "hold_out_users": {"-0.1": "greater than or equal to 0", "1": "less than 1", "nan": "finite", "few": "number"},
    "epochs": COUNT,
    "batch_size": COUNT,
    "lr": RATE,
    "max_grad_norm": RATE,
    "server_optimizer": {"sgd": f"there is no server optimizer 'sgd'; there are {', '.join(SERVER_OPTIMIZERS)}"},
    "server_lr": RATE,
    "server_schedule": {"cosine(rounds=2.5)": "rounds is 2.5; it must be a whole number"},
    "local_optimizer": {"lion": "there is no local optimizer 'lion'; there are sgd, adam, adamw"},
    "lr_schedule": {"step(10, gamma=2)": "step takes no argument 'gamma'; it is step(every, factor=0.1)"},
    "test_sampler": {"few": "there is no test sampler 'few'; there are all, one-percent, none"},
    "eval_every": FROM_0,
    "shards": {**COUNT, "99999999999999999999": "less than or equal to 4096"},
    "tune": SWITCH,
    "shared_memory": SWITCH,
    "exchange": {"often": "'auto', 'always' or 'never'"},
    "checkpoint_every": FROM_0,
    "grace": RATE,
    "progress": {"fast": "'auto', 'bar', 'plain' or 'none'"},
}
# Tried where they are used: in test_settings, test_resume, test_addresses.
PATHS = {"data", "cache", "config", "output", "resume", "init", "plan", "private", "interface"}
CASES = [(name, value, text) for name, values in BAD.items() for value, text in values.items()]


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["application.py"])


def test_every_setting_is_tried():
    assert set(BAD) | PATHS == set(Settings.model_fields)


def refused(arguments, kind=RecipeSettings):
    """The one line of a refusal, before anything has started."""

    def make():
        settings = read_settings(kind, ["data", *arguments])
        rules = Rules(
            0,
            settings.make_sampler(),
            settings.make_test_sampler(),
            settings.make_server_optimizer(),
            federated=settings.mode == "federated",
            rounds=settings.rounds,
        )
        refuse_idle(settings, Pieces(trainer=LanguageModelTrainer().with_settings(settings)), rules)

    with pytest.raises(BadInput) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "value", "text"), CASES)
def test_a_bad_value_is_refused_by_name(tmp_path, name, value, text):
    """On the command line (where a switch takes no value), and in a file."""
    flag = f"--{name.replace('_', '-')}"
    if BAD[name] is not SWITCH:
        said = refused([f"{flag}={value}"])
        assert said.startswith(f"{flag} '{value}': ")
        assert text in said
    path = tmp_path / "settings.yaml"
    path.write_text(f"{name}: '{value}'\n", encoding="utf-8")
    said = refused(["--config", str(path)])
    assert said.startswith(f"{flag} '{value}': ")
    assert text in said


CONTRADICTIONS = {
    "a plan that is not there": (["--sampler", "fixed", "--plan", "none.json"], "--plan none.json: No such file"),
    "no plan": (["--sampler", "fixed"], "--sampler fixed needs --plan FILE"),
    "a plan for another sampler": (["--plan", "p.json"], "--plan p.json would do nothing with --sampler uniform"),
    "tests without users": (
        ["--eval-every", "3", "--test-sampler", "none"], "--eval-every 3 tests during the training, but --test-sampler",
    ),
    "a server step without a server": (
        ["--mode", "centralized", "--server-optimizer", "fedadam"], "--server-optimizer fedadam needs --mode federated",
    ),
    "an empty pattern": (["--private", "a,"], "--private '': string should have at least 1 character"),
    "no file of settings": (["--config", "none.yaml"], "--config none.yaml: No such file"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "text"), CONTRADICTIONS.values(), ids=list(CONTRADICTIONS))
def test_what_does_not_go_together_is_refused(arguments, text):
    assert text in refused(arguments)


def test_a_data_folder_of_nothing_in_a_file_is_none(tmp_path):
    (tmp_path / "settings.yaml").write_text("data: null\n", encoding="utf-8")
    with pytest.raises(BadInput, match="the following arguments are required: DATA"):
        read_settings(Settings, ["--config", str(tmp_path / "settings.yaml")])


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", SERVER_OPTIMIZERS)
def test_a_server_optimizer_of_ones_own_making_is_held_to_the_same(name, rate):
    with pytest.raises(BadInput, match=f"learning rate {rate}; it must be above 0 and finite"):
        SERVER_OPTIMIZERS[name](rate)
