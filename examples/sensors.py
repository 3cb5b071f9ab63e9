"""What people do, by their phones: windows of accelerometer and gyroscope, a user is a person.

python examples/make_data.py sensors /tmp/sensors
mpirun -np 2 python examples/sensors.py /tmp/sensors
mpirun -np 2 python examples/sensors.py /tmp/sensors --private "*norm*"

The folder of SP_SW_HAR's phones may be given in place of the made-up measurements; docs/examples.md has where it is.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from reader import DataError, ReaderBase
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

if TYPE_CHECKING:
    from model import Classifier

ACTIVITIES = ("SEATED", "STANDING_UP", "WALKING", "TURNING", "SITTING_DOWN")
CHANNELS = ("x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro")
# What brings each channel to numbers of about one: gravity in m/s^2, and radians a second.
SCALE = np.array([9.81, 9.81, 9.81, 1, 1, 1], np.float32)
# Of a person's takes, the last ones, which are for the test.
TEST_SHARE = 0.3


class SensorSettings(Settings):
    """Phone sensors: DATA has a file of SP_SW_HAR's form for each person, or what make_data.py makes."""

    rounds: int = 40
    sample_num: int = 5
    epochs: int = 2
    batch_size: int = 20
    lr: float = 0.1
    max_grad_norm: float | None = None
    server_optimizer: str = "fedavg(lr=1.0)"
    eval_every: int = 10
    window: int = Field(50, ge=16, description="measurements in an example")
    step: int = Field(25, ge=1, description="measurements from an example to the next")


class SensorReader(ReaderBase):
    """Reads s01.csv.gz and the like: a person each, with takes one after another ("execution").

    An example is a window of one take: "x", float32 (6, window), and "y", what the person does for most of it.
    Windows of a person's last takes are for tests: no measurement is in both.

    Args:
        window: measurements in an example.
        step: from the beginning of one to the beginning of the next.
    """

    one_day: ClassVar[bool] = True

    def __init__(self, window: int, step: int) -> None:
        self.window, self.step = window, step

    def files(self, day: Path, split: str) -> list[Path]:
        """All people, for both splits."""
        return sorted([*day.glob("s[0-9]*.csv.gz"), *day.glob("s[0-9]*.csv")])

    def read(self, path: Path) -> Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]:
        """All that is for training."""
        return self.read_split(path, "train")

    def read_split(self, path: Path, split: str) -> Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]:
        """Yields the one person of a file.

        Raises:
            DataError: another form; too few measurements for a window.
        """
        takes = self._takes(path)
        first_test = len(takes) - max(1, round(TEST_SHARE * len(takes)))
        if first_test < 1:
            raise DataError(f"{path}: {len(takes)} take (column execution); at least one to train on and one to test")
        mine = list(takes.values())[slice(0, first_test) if split == "train" else slice(first_test, None)]
        cut = [self._windows(x, y) for x, y in mine]
        xs, ys = (np.concatenate(each) for each in zip(*cut, strict=True))
        if not len(ys):
            raise DataError(f"{path}: {split}: no take has {self.window} measurements; lower --window")
        yield path.name.partition(".")[0], {"x": xs, "y": ys}

    def _windows(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Of a take, float32 (n, 6) and int64 (n,): windows (k, 6, window) and what most of each is, (k,)."""
        starts = range(0, len(y) - self.window + 1, self.step)
        windows = [x[s : s + self.window].T for s in starts]
        labels = [np.bincount(y[s : s + self.window], minlength=len(ACTIVITIES)).argmax() for s in starts]
        shape = (len(starts), len(CHANNELS), self.window)
        return np.array(windows, np.float32).reshape(shape), np.array(labels, np.int64)

    def _takes(self, path: Path) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
        """Measurements and activities of each take, in the order of their numbers."""
        rows: dict[str, list[tuple[list[float], int]]] = {}
        line = 1
        try:
            raw = path.read_bytes()
            text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
            for row in csv.DictReader(text.splitlines()):
                line += 1
                if row["label"] not in ACTIVITIES:
                    raise ValueError(f"label {row['label']!r}")
                numbers = [float(row[name]) for name in CHANNELS]
                rows.setdefault(row["execution"], []).append((numbers, ACTIVITIES.index(row["label"])))
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: line {line}: columns execution, {', '.join(CHANNELS)} (numbers) and label (one of "
                f"{', '.join(ACTIVITIES)}) expected: {error}"
            ) from error
        takes = {}
        for name in sorted(rows, key=lambda take: (len(take), take)):
            measured, labels = zip(*rows[name], strict=True)
            x = np.array(measured, np.float32) / SCALE
            if not np.isfinite(x).all():
                raise DataError(f"{path}: execution {name}: a measurement is NaN or infinity; remove the line")
            takes[name] = x, np.array(labels, np.int64)
        return takes


class SensorTrainer(TrainerBase):
    """SGD in small batches, in a new order each epoch."""

    def make_model(self) -> Classifier:
        """The model."""
        from sensors_model import make

        return make(len(CHANNELS), len(ACTIVITIES))


def main() -> None:
    """Settings, pieces, run: the same lines on every rank."""
    settings = parse_settings(SensorSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(SensorReader(settings.window, settings.step))
    framework.set_trainer(SensorTrainer(shuffle=True))
    framework.run()


if __name__ == "__main__":
    main()
