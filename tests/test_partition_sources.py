"""reader/partition: plain sets are read as they are, or one line says which file and what is wrong."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_sets import cifar10_records, idx_bytes, idx_folder, images, write_csv, write_idx

from reader import DataError
from reader.partition import read_source
from reader.partition.idx_files import read_idx
from reader.partition.plain_set import pooled


@pytest.fixture
def mnist(tmp_path):
    return idx_folder(tmp_path / "mnist", train=12, test=4)


def refused(data, **options):
    with pytest.raises(DataError) as caught:
        read_source(data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- IDX ----


@pytest.mark.parametrize("kind", ["uint8", "int8", ">i2", ">i4", ">f4", ">f8"])
def test_all_types_of_idx_are_read(tmp_path, kind):
    numbers = np.array([[1, 2, 3], [100, 5, 0]])
    read = read_idx(write_idx(tmp_path / "x.gz", numbers, kind))
    assert read.dtype == np.dtype(kind).newbyteorder("=")
    assert read.tolist() == numbers.tolist()


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_mnist_is_read_with_its_test_set_and_its_columns(tmp_path, ending, mark):
    for part, count in (("train", 6), ("t10k", 3)):
        write_idx(tmp_path / f"{part}-images{mark}idx3-ubyte{ending}", images(count))
        write_idx(tmp_path / f"{part}-labels{mark}idx1-ubyte{ending}", np.arange(count) % 3)
        (tmp_path / f"{part}-writers.txt").write_text("7\n" * count, encoding="ascii")
    source = read_source(tmp_path)
    assert source.classes == 3
    assert source.train.x.shape == (6, 1, 6, 6)
    assert source.train.x[:, 0].tolist() == images(6).tolist()
    assert source.train.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert source.train.columns["writers"].tolist() == ["7"] * 6
    assert len(source.test) == 3


def test_pooled_has_both_parts(mnist):
    both = pooled(read_source(mnist))
    assert both.test is None
    assert both.train.x[:, 0].tolist() == [*images(12).tolist(), *images(4, start=12).tolist()]
    assert both.train.columns["writers"].tolist() == ["w0", "w1", "w2", "w3", "w4", "w5"] * 2 + ["w0", "w1", "w2", "w3"]


WHOLE = idx_bytes(images(12))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b""), "not an IDX file: it begins with nothing"),
        (gzip.compress(b"\x1f\x8b" + WHOLE[2:]), "not an IDX file: it begins with 1f 8b 08 03"),
        (gzip.compress(b"\0\0\x07" + WHOLE[3:]), "not an IDX file: it begins with 00 00 07 03"),
        (gzip.compress(WHOLE[:10]), "cut off"),
        (gzip.compress(WHOLE[:-1]), "cut off: its header says (12, 6, 6), 432 bytes, but 431 are there"),
        (gzip.compress(WHOLE + b"\0"), "its header says (12, 6, 6), 432 bytes, but there are more"),
        (gzip.compress(WHOLE)[:-9], "cannot be read"),
        (gzip.compress(WHOLE[:4] + b"\xff" * 12 + WHOLE[16:]), "cut off: its header says (4294967295, 4294967295, "),
        (gzip.compress(b"\0\0\x08\xff" + WHOLE[4:]), "not an IDX file: it begins with 00 00 08 ff"),
        (WHOLE, "cannot be read: Not a gzipped file"),
        (gzip.compress(idx_bytes(np.zeros((11, 6, 6)))), "labels of shape (12,) (uint8), but 11 images in"),
        (gzip.compress(idx_bytes(np.zeros((12, 36)))), "not images of bytes"),
    ],
)
def test_damaged_images_are_refused(mnist, content, said):
    (mnist / "train-images-idx3-ubyte.gz").write_bytes(content)
    message = refused(mnist)
    assert said in message
    assert str(mnist / "train-") in message


@given(place=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255), cut=st.integers(0, len(WHOLE)))
def test_whatever_an_idx_file_holds_it_is_an_array_or_one_line(tmp_path_factory, place, value, cut):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes((WHOLE[:place] + bytes([value]) + WHOLE[place + 1 :])[:cut])
    said = ""
    try:
        read_idx(path)
    except DataError as error:
        said = str(error)
    assert not said or (str(path) in said and "\n" not in said)


def test_labels_out_of_range_are_refused(mnist):
    write_idx(mnist / "train-labels-idx1-ubyte.gz", [0, 1, 2, 3, 200, *range(4), *range(3)])
    assert "example 4 (from 0) has label 200, but 5 labels occur" in refused(mnist)
    assert "--classes 20 allows 0 to 19" in refused(mnist, classes=20)
    assert read_source(mnist, classes=201).classes == 201


def test_a_label_that_only_the_test_set_has_is_refused(mnist):
    write_idx(mnist / "t10k-labels-idx1-ubyte.gz", [0, 1, 2, 4])
    assert "t10k-images-idx3-ubyte.gz: example 3 (from 0) has label 4, but 4 labels occur" in refused(mnist)


def test_a_column_of_another_length_and_missing_labels_are_refused(mnist):
    (mnist / "train-writers.txt").write_text("1\n2\n", encoding="ascii")
    assert "train-writers.txt: 2 lines, but 12 images" in refused(mnist)
    (mnist / "train-labels-idx1-ubyte.gz").unlink()
    assert "no labels beside it" in refused(mnist)


def test_test_images_of_another_size_are_refused(mnist):
    write_idx(mnist / "t10k-images-idx3-ubyte.gz", images(4, side=7))
    assert "x is uint8 (1, 7, 7), but in" in refused(mnist)


def test_two_files_of_images_and_what_idx_has_not_are_refused(mnist):
    assert "--label 'y'" in refused(mnist, label="y")
    assert "--columns 'a,b'" in refused(mnist, columns=("a", "b"))
    write_idx(mnist / "train-images-idx3-ubyte", images(12))
    assert "leave one of them" in refused(mnist)


# ---- CIFAR ----


def test_cifar10_is_read_in_the_order_of_its_files(tmp_path):
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(cifar10_records([2 * number - 2, 2 * number - 1]))
    (tmp_path / "test_batch.bin").write_bytes(cifar10_records([9, 3, 3]))
    (tmp_path / "batches.meta.txt").write_text("airplane\nautomobile\n\n", encoding="ascii")
    source = read_source(tmp_path)
    assert source.train.y.tolist() == list(range(10))
    assert source.train.x.shape == (10, 3, 32, 32)
    assert source.train.x[:, 2, 31, 31].tolist() == [0, 1] * 5
    assert source.train.names == ("airplane", "automobile")
    assert source.test.y.tolist() == [9, 3, 3]


def test_cifar100_has_two_kinds_of_labels(tmp_path):
    records = b"".join(bytes([fine % 20, fine]) + bytes(3072) for fine in range(100))
    for name in ("train.bin", "test.bin"):
        (tmp_path / name).write_bytes(records)
    fine, coarse = read_source(tmp_path), read_source(tmp_path, "coarse")
    assert (fine.classes, coarse.classes) == (100, 20)
    assert fine.train.y.tolist() == list(range(100))
    assert fine.train.columns["coarse"].tolist() == coarse.train.y.tolist() == [*range(20)] * 5
    assert "none that are 'rough'" in refused(tmp_path, label="rough")


def test_damaged_cifar_and_pickles_are_refused(tmp_path):
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(cifar10_records([0, 1]))
    (tmp_path / "data_batch_3.bin").write_bytes(cifar10_records([0, 1])[:-1])
    assert "data_batch_3.bin: 6145 bytes are no whole records of 3073" in refused(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(cifar10_records([0, 10]))
    assert "data_batch_3.bin: record 1 (from 0) has label 10, not 0 to 9" in refused(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    assert "data_batch_3.bin: cannot be read" in refused(tmp_path)
    pickles = tmp_path / "python"
    pickles.mkdir()
    (pickles / "data_batch_1").write_bytes(b"\x80\x02}q\x01.")
    assert "pickles, which are never opened; get its binary version" in refused(pickles)


# ---- NPZ ----


def test_npz_is_read_with_its_columns(tmp_path):
    x, y = np.arange(12.0).reshape(4, 3), np.array([[0], [1], [1], [0]])
    np.savez(tmp_path / "set.npz", x=x, y=y, user=np.array(["a", "b", "a", "c"]))
    source = read_source(tmp_path / "set.npz")
    assert source.train.x.dtype == np.float32
    assert source.train.x.tolist() == x.tolist()
    assert source.train.y.tolist() == [0, 1, 1, 0]
    assert source.train.columns["user"].tolist() == ["a", "b", "a", "c"]
    assert source.test is None


def test_npz_with_train_and_test_in_one_file_or_in_two(tmp_path):
    x, y = images(4), np.array([0, 1, 1, 0])
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    np.savez(tmp_path / "train.npz", x=x, y=y)
    np.savez(tmp_path / "test.npz", x=x[:2], y=y[:2])
    for source in (read_source(tmp_path / "mnist.npz"), read_source(tmp_path)):
        assert source.train.x.dtype == np.uint8
        assert (source.train.x.tolist(), source.test.y.tolist()) == (x.tolist(), [0, 1])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((2, 3))}, "no array 'y', only x"),
        ({"x": np.zeros(2), "y": np.array([0, 1])}, "x is float64 of shape (2,)"),
        ({"x": np.zeros((2, 3)), "y": np.array([0.0, 1.0])}, "y is float64 of shape (2,)"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, 1, 1])}, "2 whole numbers were expected"),
        ({"x": np.array([[1.0], [np.nan]]), "y": np.array([0, 1])}, "example 1 (from 0) holds a number that is not"),
        ({"x": np.zeros((2, 3)), "y": np.array([-1, 0])}, "example 0 (from 0) has label -1"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, 1]), "user": np.array(["a"])}, "2 labels, but 1 in user"),
        ({"x": np.zeros((0, 3)), "y": np.array([], int)}, "no examples"),
        ({"x": np.array([[{}]]), "y": np.array([0])}, "it holds objects, which are pickles and never opened"),
    ],
)
def test_npz_that_cannot_be_right_is_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "set.npz", **arrays)
    message = refused(tmp_path / "set.npz")
    assert said in message
    assert "set.npz" in message


def test_damaged_npz_is_refused(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, x=np.zeros((20, 3)), y=np.arange(20) % 2)
    whole = path.read_bytes()
    for content in (b"", b"PK\3\4", whole[:300], whole[:100] + b"\xff" * 40 + whole[140:], b"\x93NUMPY" + whole):
        path.write_bytes(content)
        assert "set.npz" in refused(path)


# ---- CSV ----


def test_csv_has_labels_features_and_columns(tmp_path):
    rows = [["1.5", "no", "2", "ann"], ["-3", "yes", "4e1", "bob"], ["0", "no", "5", "ann"]]
    source = read_source(write_csv(tmp_path / "set.csv", ["a", "good", "b", "who"], rows), "good", ("who",))
    assert source.train.x.tolist() == [[1.5, 2.0], [-3.0, 40.0], [0.0, 5.0]]
    assert source.train.y.tolist() == [0, 1, 0]
    assert source.train.names == ("no", "yes")
    assert source.train.columns["who"].tolist() == ["ann", "bob", "ann"]


def test_csv_labels_that_are_numbers_stay_and_a_test_file_has_the_same(tmp_path):
    write_csv(tmp_path / "train.csv", ["a", "y"], [[1, 1], [2, 0], [3, 2]])
    write_csv(tmp_path / "test.csv", ["a", "y"], [[1, 2]])
    source = read_source(tmp_path, "y")
    assert (source.train.y.tolist(), source.test.y.tolist(), source.train.names) == ([1, 0, 2], [2], ())
    write_csv(tmp_path / "test.csv", ["a", "y"], [[1, "two"]])
    assert "test.csv: example 0 (from 0) has label 'two', which is not in the training file" in refused(
        tmp_path, label="y"
    )


@pytest.mark.parametrize(
    ("head", "rows", "label", "said"),
    [
        (["a", "y"], [[1, 0]], "", "say which column has the labels, with --label"),
        (["a", "y"], [[1, 0]], "z", "no column 'z'; its first line names a, y"),
        (["a", "y"], [[1, 0], [2]], "y", "example 1 (from 0) has 1 fields, not 2"),
        (["a", "y"], [["one", 0]], "y", "column 'a' holds 'one', which is no number"),
        (["a", "y"], [["inf", 0]], "y", "example 0 (from 0) holds a number that is not finite"),
        (["a", "a"], [[1, 0]], "a", "two columns have the same name"),
        (["a", "y"], [], "y", "no examples"),
    ],
)
def test_csv_that_cannot_be_right_is_refused(tmp_path, head, rows, label, said):
    assert said in refused(write_csv(tmp_path / "set.csv", head, rows), label=label)


def test_what_is_no_set_is_refused(tmp_path):
    assert "nothing that is known is in it" in refused(tmp_path)
    assert "is not there" in refused(tmp_path / "none")
    (tmp_path / "set.txt").write_text("", encoding="ascii")
    assert "not a kind of file that is known" in refused(tmp_path / "set.txt")
