"""A task with users of more than 64 MiB, of examples and of private parameters."""

import json
import sys
from pathlib import Path

import numpy as np

from reader import ReaderBase
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

COLUMNS = 1000


class LargeReader(ReaderBase):
    """Reads {uid: number of rows}; row i of n holds the uid's length + i / n."""

    def read(self, path):
        for uid, count in json.loads(path.read_text()).items():
            yield (
                uid,
                {"x": np.repeat(np.arange(count, dtype="float32") / count + len(uid), COLUMNS).reshape(-1, COLUMNS)},
            )


class LargeTrainer(TrainerBase):
    def make_model(self):
        from large_model import LargeModel

        return LargeModel()


def make_data(root: Path) -> Path:
    for day in ("20200101", "20200102"):
        for split in ("train", "test"):
            (root / day).mkdir(parents=True, exist_ok=True)
            files = {"large": 17_500, "other-large": 17_500, "small": 3}, {"large": 5, "small": 2}
            for i, file in enumerate(files):
                (root / day / f"{split}_{i}.json").write_text(json.dumps(file))
    return root


def main() -> None:
    settings = parse_settings(Settings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(LargeReader())
    framework.set_trainer(LargeTrainer())
    framework.run()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
