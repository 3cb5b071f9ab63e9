"""A task small enough for tests: softmax regression on made-up users, with hooks that misbehave on request."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from reader import DataError, ReaderBase
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

FEATURES, CLASSES = 6, 3


class TinyReader(ReaderBase):
    """Reads {uid: {"x": rows, "y": labels}}."""

    def read(self, path):
        for uid, user in json.loads(path.read_text()).items():
            if not user["y"]:
                raise DataError(f"{path}: uid {uid!r} has no examples")
            yield uid, {"x": np.array(user["x"], "float32"), "y": np.array(user["y"], "int64")}


class TinyTrainer(TrainerBase):
    """Default SGD; `trouble` names what goes wrong and at which uid."""

    def __init__(self, trouble="", trouble_uid="", **settings):
        super().__init__(**settings)
        self.trouble, self.trouble_uid = trouble, trouble_uid

    def make_model(self):
        from tiny_model import TinyModel

        return TinyModel(FEATURES, CLASSES)

    def train_user(self, model, examples, user):
        if self.trouble and user.uid == self.trouble_uid:
            self.misbehave(model)
        return super().train_user(model, examples, user)

    def misbehave(self, model):
        if self.trouble == "raise":
            raise RuntimeError("a mistake in user code")
        if self.trouble == "nan":
            model.out.bias.set_value(np.full(CLASSES, np.nan, "float32"))
        if self.trouble == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == "hang":
            print("hanging", flush=True)
            signal.pause()


class TinySettings(Settings):
    """The tiny task's settings."""

    trouble: str = ""
    trouble_uid: str = ""
    shuffle: bool = False


def make_data(root: Path, users: int = 12, seed: int = 0, days=("20200101", "20200102")) -> Path:
    """Writes users of very different sizes, in two files a day so that a user's data is joined."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(FEATURES, CLASSES))
    for day in days:
        for split in ("train", "test"):
            (root / day).mkdir(parents=True, exist_ok=True)
            files: list[dict] = [{}, {}]
            for k in range(users):
                for file in files[: 2 if k % 3 == 0 else 1]:
                    n = int(rng.lognormal(2.0, 1.0)) + 1
                    x = rng.normal(size=(n, FEATURES)) + k / users
                    y = (x @ truth).argmax(1)
                    file[f"user{k:03d}"] = {"x": x.tolist(), "y": y.tolist()}
            for i, file in enumerate(files):
                (root / day / f"{split}_{i}.json").write_text(json.dumps(file))
    return root


def main() -> None:
    settings = parse_settings(TinySettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(TinyReader())
    framework.set_trainer(
        TinyTrainer(
            settings.trouble,
            settings.trouble_uid,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            max_grad_norm=settings.max_grad_norm,
            shuffle=settings.shuffle,
        )
    )
    framework.run()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
