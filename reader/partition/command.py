"""Makes day folders of a plain set, dealt out to users.

    python -m reader.partition MNIST OUT --partitioner "dirichlet(alpha=0.5)" --users 100 --seed 1

Where the simulator is installed, it is the command flsim-partition, too.  See docs/partitioning.md.

OUT gets a folder with NPZ files to train on, one with those to be tested on, a picture of who got what, and
partition.json, which says how it was made.  The same seed gives the same bytes.  Nothing appears in OUT before all of
it is there.  Bad input ends with one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from protos.errors import BadInput
from reader.partition.day_files import KINDS, MANIFEST, Kind, manifest, scale_of, write_users
from reader.partition.dealing import Dealt, deal_out
from reader.partition.partitioner import PARTITIONERS
from reader.partition.picture import in_words, who_got_what
from reader.partition.plain_set import pooled
from reader.partition.sources import read_source
from reader.reader_base import DataError

PICTURE = "who_got_what.svg"


@dataclass(frozen=True)
class Order:
    """What is to be made; see `python -m reader.partition --help`.

    Attributes:
        partitioner: by name with arguments.
        users: how many; None where the partitioner knows.
        seed: of every random choice.
        test_share: of each user's examples; None: the set's own test examples are the test.
        pool: whether the set's own test examples are dealt out with the others.
        scale: what the reader makes of the numbers.
        label: which labels.
        columns: of a CSV, what is neither label nor feature.
        classes: how many labels there are, if not all of them occur.
        files: files of a day.
        train_day: YYYYMMDD.
        test_day: a later one.
    """

    partitioner: str
    users: int | None = None
    seed: int = 0
    test_share: float | None = None
    pool: bool = False
    scale: Kind = "unit"
    label: str = ""
    columns: tuple[str, ...] = ()
    classes: int | None = None
    files: int = 4
    train_day: str = "20200101"
    test_day: str = "20200102"

    def check(self) -> None:
        """Raises BadInput if something cannot be right."""
        if self.test_share is not None and not 0 <= self.test_share < 1:
            raise BadInput(f"--test-share {self.test_share}: it must be at least 0 and less than 1")
        if self.pool and self.test_share is None:
            raise BadInput("--pool leaves no test set; say with --test-share how much of each user's examples is one")
        if self.seed < 0:
            raise BadInput(f"--seed {self.seed}: it must be at least 0")
        for name, value in (("--files", self.files), ("--classes", self.classes), ("--users", self.users)):
            if value is not None and value < 1:
                raise BadInput(f"{name} {value}: it must be at least 1")
        for name, day in (("--train-day", self.train_day), ("--test-day", self.test_day)):
            try:
                valid = datetime.strptime(day, "%Y%m%d").strftime("%Y%m%d") == day
            except ValueError:
                valid = False
            if not valid:
                raise BadInput(f"{name} {day!r} is no date; write it as YYYYMMDD")
        if self.train_day >= self.test_day:
            raise BadInput(
                f"--test-day {self.test_day} must come after --train-day {self.train_day}: days are played in order"
            )


def lay_out(data: Path, out: Path, order: Order) -> Dealt:
    """Makes the folder.

    Args:
        data: the plain set, see `read_source`.
        out: a folder that is new or empty.
        order: what to make.

    Returns:
        Who got what.

    Raises:
        BadInput, DataError: it cannot be made; the message is one line.
    """
    order.check()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is not empty; name a folder that is new or empty")
    partitioner = PARTITIONERS.make(order.partitioner)
    source = read_source(data, order.label, order.columns, order.classes)
    source = pooled(source) if order.pool else source
    dealt = deal_out(source, partitioner, order.users, order.test_share, order.seed)
    scale = scale_of(order.scale, source.train.x, partitioner.float_examples)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as stage:
        made = Path(stage) / "made"
        made.mkdir()
        for day, split, users, examples in (
            (order.train_day, "train", dealt.train, source.train),
            (order.test_day, "test", dealt.test, dealt.test_set),
        ):
            if users:
                among, files, seed = len(dealt.train), order.files, order.seed
                write_users(made / day, split, users, examples, partitioner, scale, among=among, files=files, seed=seed)
        said = manifest(dealt, partitioner, seed=order.seed, test_share=order.test_share, scale=order.scale)
        (made / MANIFEST).write_text(said, encoding="utf-8")
        title = f"{data.name}: {order.partitioner}, seed {order.seed}"
        (made / PICTURE).write_text(who_got_what(dealt, title), encoding="utf-8")
        made.replace(out)
    return dealt


def _parser() -> argparse.ArgumentParser:
    table = "\n".join(f"  {how}\n      {what}" for how, what in sorted(PARTITIONERS.table()))
    parser = argparse.ArgumentParser(
        prog="python -m reader.partition",
        description="Make day folders of a plain set, dealt out to users; see docs/partitioning.md.",
        epilog=f"partitioners:\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="IDX or CIFAR files in a folder, an NPZ or a CSV file")
    parser.add_argument("out", type=Path, help="the data folder to make")
    parser.add_argument("--partitioner", required=True, help="who gets what, such as 'dirichlet(alpha=0.5)'")
    parser.add_argument("--users", type=int, help="how many (natural-id knows)")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (%(default)s)")
    parser.add_argument("--test-share", type=float, help="of each user's examples (the set's own test set is the test)")
    parser.add_argument("--pool", action="store_true", help="deal out the set's own test examples with the others")
    parser.add_argument("--scale", choices=KINDS, default="unit", help="what the reader makes of x (%(default)s)")
    parser.add_argument("--label", default="", help="column of a CSV, array of an NPZ (y), fine or coarse (fine)")
    parser.add_argument("--columns", default="", help="of a CSV: what is neither label nor feature, a,b,c")
    parser.add_argument("--classes", type=int, help="how many labels there are, if not all of them occur")
    parser.add_argument("--files", type=int, default=4, help="of a day, which are read in parallel (%(default)s)")
    parser.add_argument("--train-day", default="20200101", help="folder to train on (%(default)s)")
    parser.add_argument("--test-day", default="20200102", help="folder to be tested on (%(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    given = vars(_parser().parse_args(argv))
    data, out = given.pop("data"), given.pop("out")
    given["columns"] = tuple(name.strip() for name in given["columns"].split(",") if name.strip())
    try:
        dealt = lay_out(data, out, Order(**given))
    except (BadInput, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(in_words(dealt))
    print(out / PICTURE)
    return 0
