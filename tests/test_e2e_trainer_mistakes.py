"""What a model or a trainer of one's own may get wrong: one line with the uid, the class and what to do."""

import numpy as np
import pytest
from mistakes_task import MistakenTrainer, make_data, one
from running import ROOT, run

from protos.codec import TensorSpec
from protos.errors import BadInput
from simulator.worker.dtype_hint import explain_float64
from simulator.worker.turn import Turn
from trainer import TaskError, add_metrics

pytestmark = pytest.mark.usefixtures("forks")

MUST = "it must return (loss, metrics), metrics as name -> (sum, count)"
SAID = {
    "a scalar loss": f"MistakenModel.loss returns a tensor of shape []; {MUST}",
    "a loss of rows": "MistakenModel.loss returns a loss of shape [2]; it must be a scalar, such as its mean()",
    "a number": f" as the loss; {MUST}, the loss a tensor",
    "three things": f"MistakenModel.loss returns a tuple of 3; {MUST}",
    "metrics that are none": f"MistakenModel.loss returns a tensor of shape [] as the metrics; {MUST}",
    "metrics without counts": "metric 'loss' must be a pair (sum, count), not a tensor of shape []",
    "metrics of text": "metric 'loss' must be a pair of numbers (sum, count), not ('a', 1)",
    "nothing": f"MistakenModel.loss returns None; {MUST}",
}
MODEL = {"w": TensorSpec("float32", (2,))}


@pytest.mark.parametrize("mistake", SAID)
def test_a_loss_that_breaks_the_contract_is_told_how_to_keep_it(mistake):
    trainer, (_, examples) = MistakenTrainer(mistake), one()
    model = trainer.make_model()
    for play in (trainer.train_user, trainer.evaluate_user):
        with pytest.raises(TaskError) as caught:
            play(model, examples, Turn("a", "20200101", 1, 0, dict))
        assert SAID[mistake] in str(caught.value)
        assert "\n" not in str(caught.value)


def test_pairs_of_any_numbers_are_metrics():
    totals = {}
    add_metrics(totals, {"loss": (np.float32(1.5), 2)})
    add_metrics(totals, {"loss": [np.array([0.5]), True]})
    assert totals == {"loss": (2.0, 3.0)}


def float64_error():
    """What Paddle itself says."""
    trainer, (_, examples) = MistakenTrainer("float64"), one("float64")
    with pytest.raises(ValueError, match="float64") as caught:
        trainer.train_user(trainer.make_model(), examples, Turn("a", "20200101", 1, 0, dict))
    return caught.value, examples


def test_float64_in_a_float32_model_names_the_array_and_offers_the_cast():
    error, examples = float64_error()
    told = explain_float64(error, "a", examples, MODEL, "MyReader")
    assert str(told).startswith("uid 'a': its array 'x' is float64 and the model is float32, which Paddle does not put")
    assert str(told).endswith('; let MyReader.read yield x.astype("float32")')
    assert "\n" not in str(told)
    both = {**examples, "z": np.ones(3)}
    assert "its arrays 'x', 'z' are float64" in str(explain_float64(error, "a", both, MODEL, "MyReader"))


def test_other_errors_are_not_explained_by_float64():
    error, examples = float64_error()
    _, narrow = one()
    assert explain_float64(error, "a", narrow, MODEL, "R") is None
    assert explain_float64(error, "a", examples, {"w": TensorSpec("float64", (2,))}, "R") is None
    assert explain_float64(RuntimeError("a mistake"), "a", examples, MODEL, "R") is None
    assert explain_float64(BadInput("float64"), "a", examples, MODEL, "R") is None


RUNS = {**SAID, "float64": "its array 'x' is float64 and the model is float32"}


@pytest.mark.parametrize(
    "mistake",
    ["a scalar loss", *(pytest.param(k, marks=pytest.mark.slow) for k in ("float64", "metrics without counts"))],
)
def test_a_run_ends_with_that_line(tmp_path, mistake):
    page, data = ROOT / "tests" / "mistakes_task.py", make_data(tmp_path / "data")
    flags = ["--mistake", mistake, "--shards", 1, "--sample-num", 1, "--rounds", 1, "--train-last-day"]
    done = run(page, data, *flags, "--test-sampler", "none", "--output", tmp_path / "out", check=False)
    (line,) = done.stderr.splitlines()
    assert line.startswith("rank 0: date 20200101, round 1")
    assert "uid 'a'" in line
    assert RUNS[mistake] in line
