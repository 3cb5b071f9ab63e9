"""A page with one mistake, chosen by `--mistake`: what a new user gets wrong in a reader, a model or a trainer."""

import json
import sys
from pathlib import Path

import numpy as np

from reader import ReaderBase
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase


def one(x="float32", uid="a", rows=3):
    return uid, {"x": np.ones((rows, 2), x), "y": np.zeros(rows, "int64")}


READS = {
    "none": lambda: None,
    "a number": lambda: 7,
    "a dict": lambda: dict([one()]),
    "uids alone": lambda: ["ab"],
    "triples": lambda: [(*one(), 1)],
    "a list of arrays": lambda: [("a", [np.ones(3)])],
    "an int uid": lambda: [one(uid=17)],
    "a NumPy uid": lambda: [one(uid=np.int64(17))],
    "a bytes uid": lambda: [one(uid=b"u1")],
    "half a surrogate": lambda: [one(uid="a\ud800")],
    "an empty uid": lambda: [one(uid="")],
    "a long uid": lambda: [one(uid="u" * 1025)],
    "a uid with NUL": lambda: [one(uid="a\0b")],
    "float64": lambda: [one("float64")],
    "a list of pairs": lambda: [one(), one(uid="b")],
}


class MistakenReader(ReaderBase):
    def __init__(self, mistake):
        self.mistake = mistake

    def read(self, path):
        return READS.get(self.mistake, lambda: iter([one()]))()


class MistakenTrainer(TrainerBase):
    def __init__(self, mistake):
        super().__init__()
        self.mistake = mistake

    def make_model(self):
        from mistaken_model import MistakenModel

        return MistakenModel(self.mistake)


class MistakenSettings(Settings):
    mistake: str = ""


def make_data(root: Path) -> Path:
    (root / "20200101").mkdir(parents=True)
    (root / "20200101" / "train.json").write_text(json.dumps({}))
    return root


def main() -> None:
    settings = parse_settings(MistakenSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(MistakenReader(settings.mistake))
    framework.set_trainer(MistakenTrainer(settings.mistake))
    framework.run()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
