"""Plain sets made by hand, as files."""

import csv
import gzip
import struct

import numpy as np

CODES = {"uint8": 0x08, "int8": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def idx_bytes(array, kind="uint8"):
    array = np.asarray(array)
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, CODES[kind], array.ndim, *array.shape) + array.astype(kind).tobytes()
    )


def write_idx(path, array, kind="uint8"):
    raw = idx_bytes(array, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def images(count, side=6, start=0):
    """Images that all differ: the first two pixels are a number of their own."""
    x = np.random.default_rng(start).integers(0, 256, (count, side, side), np.uint8)
    x[:, 0, 0], x[:, 0, 1] = np.divmod(np.arange(start, start + count), 256)
    return x


def numbers(x):
    """Which of `images` these are, as a reader gives them: 0 to 1."""
    pixels = np.rint(np.asarray(x, np.float64) * 255).astype(int)
    return (pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 0, 1]).tolist()


def idx_folder(folder, train=120, test=30, classes=4, writers=6):
    """Images labelled 0, 1, ... in turn; the number of test images begins where that of the others ends."""
    for part, count, start in (("train", train, 0), ("t10k", test, train)):
        if count:
            write_idx(folder / f"{part}-images-idx3-ubyte.gz", images(count, start=start))
            write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.arange(count) % classes)
            names = [f"w{number % writers}\n" for number in range(count)]
            (folder / f"{part}-writers.txt").write_text("".join(names), encoding="ascii")
    return folder


def cifar10_records(labels):
    """Records whose pixels are all the number of the record."""
    return b"".join(bytes([label]) + bytes([number]) * 3072 for number, label in enumerate(labels))


def write_csv(path, head, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path
