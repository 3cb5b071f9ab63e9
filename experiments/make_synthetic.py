"""Writes FedProx's Synthetic(alpha, beta) in LEAF's form: 30 users, nine tenths of each to train on.

python experiments/make_synthetic.py OUT --seed 0
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from small_data._leaf_form import write_leaf
from small_data.synthetic import synthetic


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder to make")
    parser.add_argument("--alpha", type=float, default=1.0, help="how much users' models differ (%(default)s)")
    parser.add_argument("--beta", type=float, default=1.0, help="how much users' inputs differ (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    users = synthetic(given.alpha, given.beta, seed=given.seed)
    write_leaf(given.out, {uid: (x.round(6).tolist(), y.tolist()) for uid, (x, y) in users.items()}, test_share=0.1)


if __name__ == "__main__":
    main()
