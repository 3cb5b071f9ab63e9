"""A notebook that defines everything in cells, run by `jupyter execute`: a sweep in which one run diverges."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import environment, params, same
from tiny_task import TinyReader, TinyTrainer, make_data

import simulator

JUPYTER = Path(sys.executable).with_name("jupyter-execute")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not JUPYTER.exists(), reason="nbclient is not installed"),
    pytest.mark.usefixtures("scratch"),
]

CLASSES = """
import json
import numpy as np
import paddle
from model import ModelBase
from reader import ReaderBase
from scheduler import Algorithm
from simulator import FLError, Settings, run
from simulator.callbacks import CONTINUE, Callback, stop
from trainer import TrainerBase


class Reader(ReaderBase):
    def read(self, path):
        for uid, user in json.loads(path.read_text()).items():
            yield uid, {"x": np.array(user["x"], "float32"), "y": np.array(user["y"], "int64")}


class Net(ModelBase):
    def __init__(self, features, classes):
        super().__init__()
        self.hidden = paddle.nn.Linear(features, 5)
        self.norm = paddle.nn.BatchNorm1D(5)
        self.out = paddle.nn.Linear(5, classes)

    def loss(self, batch):
        logits = self.out(paddle.tanh(self.norm(self.hidden(batch["x"]))))
        loss = paddle.nn.functional.cross_entropy(logits, batch["y"])
        hits, count = (logits.argmax(1) == batch["y"]).sum(), len(batch["y"])
        return loss, {"loss": (loss * count, count), "top1": (hits, count)}


class Trainer(TrainerBase):
    def make_model(self):
        return Net(FEATURES, CLASSES)


class Plain(Algorithm):
    pass


class Two(Callback):
    def decide(self, record):
        return stop("two are enough") if record.at.step == 1 else CONTINUE


FEATURES, CLASSES = 6, 3
"""
SWEEP = """
found = {}
for lr in (0.5, 1e38, 1.0):
    settings = Settings(data=DATA, output=f"{OUT}/{lr}", rounds=2, sample_num=4, shards=2, lr=lr, max_grad_norm=None)
    try:
        found[lr] = run(settings, reader=Reader(), trainer=Trainer(), algorithm=Plain(), ranks=RANKS).value
    except FLError as error:
        found[lr] = str(error)
print(json.dumps(found))
"""
AGAIN = """
class Trainer(Trainer):
    def weight(self, examples):
        return 1.0

settings = Settings(data=DATA, output=f"{OUT}/again", rounds=4, sample_num=4, shards=1)
result = run(settings, reader=Reader(), trainer=Trainer(), callbacks=[Two()], ranks=RANKS)
result.stopped, len(result.metrics["round"])
"""


@pytest.mark.parametrize("ranks", [2])
def test_a_sweep_in_a_notebook(tmp_path, ranks):
    data = make_data(tmp_path / "data")
    head = f"DATA, OUT, RANKS = {str(data)!r}, {str(tmp_path / 'out')!r}, {ranks}"
    cells = [
        {"cell_type": "code", "execution_count": None, "id": f"c{n}", "metadata": {}, "outputs": [], "source": source}
        for n, source in enumerate((head, CLASSES, SWEEP, AGAIN))
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    path = tmp_path / "sweep.ipynb"
    path.write_text(json.dumps(notebook))
    done = subprocess.run(
        [JUPYTER, path, f"--output={tmp_path / 'done.ipynb'}"],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outputs = [cell["outputs"] for cell in json.loads((tmp_path / "done.ipynb").read_text())["cells"]]
    text = "".join("".join(each["text"]) for each in outputs[2] if each["output_type"] == "stream")
    found = json.loads(text.splitlines()[-1])
    assert isinstance(found["0.5"], float)
    assert "lower the local learning rate" in found["1e+38"]
    assert "rounds in" in text
    settings = simulator.Settings(
        data=data, output=tmp_path / "alone", rounds=2, sample_num=4, shards=1, max_grad_norm=None, progress="none"
    )
    alone = simulator.run(settings, reader=TinyReader(), trainer=TinyTrainer())
    assert found["1.0"] == alone.value
    assert same(alone.params, params(tmp_path / "out" / "1.0"))
    # A class that is defined anew is the one that counts, and a callback may be one of the notebook's.
    assert outputs[3][-1]["data"]["text/plain"] == ["('two are enough', 2)"]
