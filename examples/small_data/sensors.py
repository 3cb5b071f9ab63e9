"""Made-up measurements of a phone's accelerometer and gyroscope, in the form of SP_SW_HAR: 8 people, 5 activities."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt

# Of an activity: how often in a measurement (cycles), how strong the acceleration and the turning, in a take's order.
ACTIVITIES = {
    "SEATED": (0.0, 0.05, 0.02),
    "STANDING_UP": (0.008, 2.0, 0.6),
    "WALKING": (0.04, 3.0, 0.8),
    "TURNING": (0.02, 1.5, 2.0),
    "SITTING_DOWN": (0.008, 2.0, -0.6),
}
TAKES = 6
COLUMNS = "execution,x_acc,y_acc,z_acc,x_gyro,y_gyro,z_gyro,timestamp,label"


def write(out: Path, seed: int, users: int = 8) -> None:
    """Writes s01.csv.gz and so on: each person wears the phone in another way, and walks at another pace.

    Args:
        out: an empty folder.
        seed: of everything.
        users: how many people.
    """
    rng = np.random.default_rng(seed)
    for person in range(1, users + 1):
        worn, pace = np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.uniform(0.7, 1.4)
        lines = [COLUMNS]
        for take in range(1, TAKES + 1):
            clock = 1_600_000_000_000 + take * 60_000
            for activity in ACTIVITIES:
                for numbers in _measure(rng, activity, worn, pace):
                    clock += 10
                    told = ",".join(f"{number:.5g}" for number in numbers)
                    lines.append(f"{take:02d},{told},{clock},{activity}")
        text = "\n".join(lines) + "\n"
        (out / f"s{person:02d}.csv.gz").write_bytes(gzip.compress(text.encode("ascii"), mtime=0))


def _measure(
    rng: np.random.Generator, activity: str, worn: npt.NDArray[np.float64], pace: float
) -> npt.NDArray[np.float64]:
    """Float64 (n, 6): accelerations in m/s^2 and turning in radians a second."""
    often, strong, turning = ACTIVITIES[activity]
    n = int(rng.integers(90, 160))
    phase = 2 * np.pi * (often * pace * np.arange(n) + rng.uniform())
    moves = np.stack([np.sin(phase), np.sin(2 * phase), np.cos(phase)], axis=1)
    pull = np.array([0, 9.81, 0]) + strong * moves * [0.5, 1, 0.5]
    turns = turning * moves[:, ::-1] * [0.3, 1, 0.3]
    noise = rng.normal(0, [0.3] * 3 + [0.1] * 3, (n, 6))
    measured: npt.NDArray[np.float64] = np.concatenate([pull @ worn, turns @ worn], axis=1) + noise
    return measured
