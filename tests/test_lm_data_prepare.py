"""lm_data/prepare.py: LEAF's zip and pushshift dumps become data folders, or one clear line and nothing else."""

import bz2
import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_data import prepare, pushshift, tokens, vocabulary

LM_DATA = Path(__file__).resolve().parent.parent / "lm_data"
TRAIN, TEST, VAL = "20200101/train_data.json", "20200102/test_data.json", "20200102/val_data.json"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def assert_matching(content):
    """x and y of a file match in every dimension, and users in every list."""
    assert sorted(content["users"]) == sorted(content["user_data"])
    for uid, number in zip(content["users"], content["num_samples"], strict=True):
        entry = content["user_data"][uid]
        assert len(entry["x"]) == len(entry["y"]) == number
        for comment, label in zip(entry["x"], entry["y"], strict=True):
            for rows in (comment, label["target_tokens"], label["count_tokens"]):
                assert len(rows) == len(comment)
                assert all(len(row) == 10 for row in rows)
            inputs = [token for row in comment for token in row]
            targets = [token for row in label["target_tokens"] for token in row]
            counts = [count for row in label["count_tokens"] for count in row]
            assert targets == [*inputs[1:], "<PAD>"]
            assert counts == [int(token != "<PAD>") for token in inputs]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def assert_fails(capsys, out, argv, *parts):
    """The command says all of `parts` in one line on stderr, returns 2 and leaves nothing behind."""
    before = files_in(out) if out.exists() else None
    assert prepare.main([str(part) for part in argv]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    for part in parts:
        assert part in message
    assert (files_in(out) if out.exists() else None) == before


# ---- LEAF's zip ----


def leaf_entry(*words):
    """A user with one two-token comment for each word."""
    labels, comments = [], []
    for word in words:
        comments.append([[word, "<EOS>"] + ["<PAD>"] * 8])
        target, count = ["<EOS>"] + ["<PAD>"] * 9, [1.0, 1.0] + [0.0] * 8
        labels.append({"target_tokens": [target], "count_tokens": [count], "subreddit": "s", "score": 3})
    return {"x": comments, "y": labels}


def leaf_json(**user_words):
    data = {uid: leaf_entry(*words) for uid, words in user_words.items()}
    return {"users": list(data), "num_samples": [99] * len(data), "user_data": data}


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return path


@pytest.fixture
def leaf_zip(tmp_path):
    def make(**members):
        content = {
            "reddit_subsampled/train_data.json": leaf_json(a=["one", "two"], b=["three"]),
            "reddit_subsampled/test_data.json": leaf_json(a=["four"], b=["five", "six"]),
            "reddit_subsampled/val_data.json": leaf_json(a=["seven"]),
        }
        named = {f"reddit_subsampled/{name}_data.json": value for name, value in members.items()}
        return make_zip(tmp_path / "reddit.zip", content | named)

    return make


def test_zip_is_laid_out_by_day(leaf_zip, out, caplog):
    assert prepare.main(["leaf", str(leaf_zip()), str(out)]) == 0
    assert files_in(out) == [TRAIN, TEST]
    train = read(out / TRAIN)
    assert train["users"] == ["a", "b"]
    assert train["num_samples"] == [2, 1]  # what is in this file, not LEAF's 99 over all splits
    assert train["user_data"]["a"]["x"] == leaf_entry("one", "two")["x"]
    assert train["user_data"]["a"]["y"][0]["score"] == 3
    assert str(train["user_data"]["a"]["y"][0]["count_tokens"]) == "[[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]]"
    assert_matching(train)
    assert_matching(read(out / TEST))
    assert "are also in train" not in caplog.text


def test_val_and_day_names_are_options(leaf_zip, out):
    argv = ["leaf", str(leaf_zip()), str(out), "--val", "--train-day", "20210301", "--test-day", "20210302"]
    assert prepare.main(argv) == 0
    assert files_in(out) == ["20210301/train_data.json", "20210302/test_data.json", "20210302/val_data.json"]


def test_split_in_several_files_is_joined(tmp_path, out):
    members = {
        "data/train/reddit_0.json": leaf_json(a=["one"]),
        "data/train/reddit_1.json": leaf_json(b=["two"]),
        "data/reddit_0_test.json": leaf_json(a=["three"]),
        "data/reddit_1_test.json": leaf_json(b=["four"]),
        "__MACOSX/data/train/._reddit_0.json": b"not JSON",
        "data/notes.txt": b"train test",
    }
    assert prepare.main(["leaf", str(make_zip(tmp_path / "z.zip", members)), str(out)]) == 0
    assert read(out / TRAIN)["users"] == ["a", "b"]
    assert read(out / TEST)["users"] == ["a", "b"]


def test_identical_train_and_test_are_warned_of(leaf_zip, out, caplog):
    same = leaf_json(a=["one", "two"], b=["three"])
    assert prepare.main(["leaf", str(leaf_zip(train=same, test=same)), str(out)]) == 0
    assert "3 of 3 test sequences (100.0 %) are also in train" in caplog.text
    assert "December 2021" in caplog.text


def test_shared_sequences_count_by_user(leaf_zip, out, caplog):
    train, test = leaf_json(a=["one"], b=["two"]), leaf_json(a=["one", "two", "x", "y"], b=["z"])
    assert prepare.main(["leaf", str(leaf_zip(train=train, test=test)), str(out)]) == 0
    assert "1 of 5 test sequences (20.0 %)" in caplog.text  # "two" is b's in train and a's in test
    assert "December 2021" not in caplog.text


@pytest.mark.parametrize(
    ("vocab", "used"),
    [
        ({"vocab": {"<PAD>": 0, "<UNK>": 1, "one": 2}, "size": 3, "unk_symbol": 1, "pad_symbol": 0}, True),
        ({"vocab": {"<PAD>": 0, "<UNK>": 1, "one": 1, "two": 2}, "size": 4}, False),  # LEAF's slip: two words share 1
        ({"vocab": {"<PAD>": 0, "<UNK>": 1, "one": 3}}, False),
        ([], False),
    ],
)
def test_only_a_sound_vocabulary_is_taken_over(tmp_path, out, caplog, vocab, used):
    members = {"train_data.json": leaf_json(a=["one"]), "test_data.json": leaf_json(a=["two"]), "vocab.json": vocab}
    assert prepare.main(["leaf", str(make_zip(tmp_path / "z.zip", members)), str(out)]) == 0
    assert ("vocab.json" in files_in(out)) == used
    assert ("vocab.json is not used" in caplog.text) != used
    if used:
        assert read(out / "vocab.json") == vocab


def test_pickled_vocabulary_is_never_opened(tmp_path, out, caplog):
    trap = b"cbuiltins\nexec\n(S'raise SystemExit(77)'\ntR."  # would end the process if it were unpickled
    members = {"train.json": leaf_json(a=["one"]), "test.json": leaf_json(a=["two"]), "reddit_vocab.pck": trap}
    assert prepare.main(["leaf", str(make_zip(tmp_path / "z.zip", members)), str(out)]) == 0
    assert files_in(out) == [TRAIN, TEST]
    assert "reddit_vocab.pck is not used" in caplog.text


def test_existing_output_is_kept_without_force(leaf_zip, out, capsys):
    archive = leaf_zip()
    (out / "20200102").mkdir(parents=True)
    for name in (TEST, VAL, "vocab.json"):
        (out / name).write_text("old")
    assert_fails(capsys, out, ["leaf", archive, out], "test_data.json exists", "--force")
    assert (out / TEST).read_text() == "old"
    assert prepare.main(["leaf", str(archive), str(out), "--force"]) == 0
    assert files_in(out) == [TRAIN, TEST]  # the old vocabulary and val do not fit the new data
    assert read(out / TEST)["users"] == ["a", "b"]


def test_failure_with_force_keeps_the_old_files(leaf_zip, out, capsys):
    assert prepare.main(["leaf", str(leaf_zip()), str(out)]) == 0
    old = (out / TRAIN).read_bytes()
    assert_fails(capsys, out, ["leaf", leaf_zip(test=b"{"), out, "--force"], "is not JSON")
    assert (out / TRAIN).read_bytes() == old


def test_not_a_zip(tmp_path, out, capsys):
    (tmp_path / "x.zip").write_bytes(b"no zip")
    assert_fails(capsys, out, ["leaf", tmp_path / "x.zip", out], "x.zip is not a zip")
    assert_fails(capsys, out, ["leaf", tmp_path / "none.zip", out], "none.zip")


def test_damaged_member(leaf_zip, out, capsys):
    path = leaf_zip()
    path.write_bytes(path.read_bytes().replace(b'"four"', b'"fourX', 1))  # stored, so the checksum no longer fits
    assert_fails(capsys, out, ["leaf", path, out], "test_data.json cannot be read", "CRC")


@pytest.mark.parametrize("missing", ["train", "test"])
def test_missing_member(tmp_path, out, capsys, missing):
    members = {f"d/{name}_data.json": leaf_json(a=["one"]) for name in ("train", "test") if name != missing}
    archive = make_zip(tmp_path / "z.zip", members)
    assert_fails(capsys, out, ["leaf", archive, out], "z.zip", f"no {missing} JSON inside")


def test_val_asked_for_but_missing(tmp_path, out, capsys):
    members = {"train.json": leaf_json(a=["one"]), "test.json": leaf_json(a=["two"])}
    assert_fails(capsys, out, ["leaf", make_zip(tmp_path / "z.zip", members), out, "--val"], "no val JSON inside")


def spoiled(change):
    content = leaf_json(a=["four"], b=["five", "six"])
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda c: c["user_data"]["b"]["y"].pop(), ["'b'", "x and y do not match: 2 and 1 comments"]),
        (lambda c: c["user_data"]["b"].pop("y"), ["'b'", "2 and no list"]),
        (
            lambda c: c["user_data"]["b"]["x"][1].append(["w"] * 10),
            ["'b', comment 1", "2 sequences in x, 1 in target_tokens"],
        ),
        (lambda c: c["user_data"]["b"]["x"][1][0].pop(), ["'b', comment 1", "length 9, not 10"]),
        (lambda c: c["user_data"]["b"]["y"][0]["count_tokens"][0].append(1), ["'b', comment 0", "length 11"]),
        (lambda c: c["user_data"]["b"]["y"][0]["count_tokens"][0].__setitem__(0, "1"), ["'b'", "does not belong"]),
        (lambda c: c["user_data"]["b"]["x"][0][0].__setitem__(0, 7), ["'b'", "x has a value"]),
        (lambda c: c["user_data"]["b"]["y"].__setitem__(0, "word"), ["'b'", "y is not an object"]),
        (lambda c: c["user_data"]["b"]["x"].__setitem__(0, ["word"]), ["'b'", "not a list of sequences"]),
        (lambda c: c["user_data"].pop("b"), ["'b' is in users but not in user_data"]),
        (lambda c: c["users"].pop(), ["'b' is in user_data but not in users"]),
        (lambda c: c["users"].append("a"), ["'a'", "test_data.json already"]),
        (lambda c: c.pop("users"), ["no users"]),
    ],
)
def test_member_not_in_leaf_form_names_file_and_user(leaf_zip, out, capsys, change, parts):
    archive = leaf_zip(test=spoiled(change))
    assert_fails(capsys, out, ["leaf", archive, out], "reddit.zip", "test_data.json", *parts)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_member_that_is_not_json(leaf_zip, out, capsys, content):
    assert_fails(capsys, out, ["leaf", leaf_zip(train=content), out], "reddit.zip", "train_data.json")


@pytest.mark.parametrize(
    ("days", "part"),
    [
        (["--train-day", "2020-1-1"], "'2020-1-1' is not a date"),
        (["--test-day", "20200230"], "'20200230' is not a date"),
        (["--train-day", "20200102"], "must come after"),
    ],
)
def test_days_are_dates_in_order(leaf_zip, out, capsys, days, part):
    assert_fails(capsys, out, ["leaf", leaf_zip(), out, *days], part)


# ---- tokens and sequences ----


def test_sequences_by_hand():
    inputs, targets, counts = tokens.cut(list("abcdefghij"))
    assert inputs == [["<BOS>", *"abcdefghi"], ["j", "<EOS>", *["<PAD>"] * 8]]
    assert targets == [[*"abcdefghij"], ["<EOS>", *["<PAD>"] * 9]]
    assert counts == [[1] * 10, [1, 1] + [0] * 8]


def test_full_sequence_has_no_padding():
    inputs, targets, counts = tokens.cut(list("abcdefgh"))
    assert inputs == [["<BOS>", *"abcdefgh", "<EOS>"]]
    assert targets == [[*"abcdefgh", "<EOS>", "<PAD>"]]
    assert counts == [[1] * 10]


@given(st.lists(st.text("abc.'", min_size=1, max_size=4), max_size=45))
def test_input_tokens_joined_give_the_comment_back(words):
    inputs, targets, counts = tokens.cut(words)
    flat = [token for row in inputs for token in row]
    real = sum(count for row in counts for count in row)
    assert flat[:real] == ["<BOS>", *words, "<EOS>"]
    assert set(flat[real:]) <= {"<PAD>"}
    assert len(flat) - real < 10
    assert [token for row in targets for token in row] == [*flat[1:], "<PAD>"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("Don't SHOUT, please!", "don't shout , please !"),
        ("a well-known 3.5% (or 10,000)...", "a well-known 3.5 % ( or 10,000 ) . . ."),
        ("see [this](https://example.org/a?b=c) or www.example.org", "see [ this ] ( <URL> ) or <URL>"),
        ("ask u/Some_Name or /u/Other-One in r/askscience", "ask <USER> or <USER> in <SUBREDDIT>"),
        ("Q&amp;A &gt; caf\u00e9 \u201cit\u2019s\u201d \U0001f600", 'q & a > cafe " it\'s "'),
        ("<PAD> <unk> <URL>", "< pad > < unk > < url >"),
        ("either/or and/r/x 3rd v1.2b", "either / or and / r / x 3rd v1 . 2b"),
        (" \n\t ", ""),
    ],
)
def test_tokens_by_hand(body, expected):
    assert tokens.tokenize(body) == expected.split()


@given(st.text())
def test_no_text_can_forge_a_special_token_or_hold_a_blank(body):
    for token in tokens.tokenize(body):
        assert token not in {"<BOS>", "<EOS>", "<PAD>", "<UNK>"}
        assert token.isascii()
        assert not any(letter.isspace() for letter in token)


# ---- pushshift dumps ----

NAMES = ["Alice_Q", "BobbyTables", "carol99", "DaveTheRave"]


def comment(author, when, text="some words that are long enough", **more):
    record = {"author": author, "body": text, "subreddit": "sub", "created_utc": when, "id": f"{author}{when}"}
    return record | more


def make_dump(path, records, opener=open):
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    with opener(path, "wb") as file:
        file.write(b"\n".join(lines))
    return path


def five_each(names=NAMES):
    return [comment(name, 100 + when) for when in range(5) for name in names]


def run_dump(tmp_path, records, *options):
    out = tmp_path / "out"
    dump = make_dump(tmp_path / "dump.jsonl", records)
    assert prepare.main(["pushshift", str(dump), str(out), "--force", *map(str, options)]) == 0
    assert files_in(out) == [TRAIN, TEST, "vocab.json"]
    for name in (TRAIN, TEST):
        assert_matching(read(out / name))
    return read(out / TRAIN), read(out / TEST)


def words_of(content):
    """Every comment of a file as text, by user."""
    return {
        uid: [" ".join(t for row in x for t in row if t[0] != "<") for x in entry["x"]]
        for uid, entry in content["user_data"].items()
    }


def test_dump_becomes_leaf_form(tmp_path):
    train, test = run_dump(tmp_path, five_each())
    assert train["users"] == test["users"] == sorted(train["users"])
    assert (train["num_samples"], test["num_samples"]) == ([3] * 4, [2] * 4)
    entry = train["user_data"][train["users"][0]]
    words = ["some", "words", "that", "are", "long", "enough"]
    assert entry["x"][0] == [["<BOS>", *words, "<EOS>", "<PAD>", "<PAD>"]]
    assert entry["y"][0] == {
        "target_tokens": [[*words, "<EOS>", "<PAD>", "<PAD>", "<PAD>"]],
        "count_tokens": [[1] * 8 + [0] * 2],
        "subreddit": "sub",
    }


@pytest.mark.parametrize(("suffix", "opener"), [(".bz2", bz2.open), (".gz", gzip.open), (".json", open)])
def test_packed_dumps_give_the_same(tmp_path, suffix, opener):
    plain = run_dump(tmp_path, five_each(), "--salt", "s")
    dump = make_dump(tmp_path / f"RC{suffix}", five_each(), opener)
    out = tmp_path / "packed"
    assert prepare.main(["pushshift", str(dump), str(out), "--salt", "s"]) == 0
    assert (read(out / TRAIN), read(out / TEST)) == plain


def test_zst_dump_of_two_frames(tmp_path, out, capsys):
    zstandard = pytest.importorskip("zstandard")
    plain = run_dump(tmp_path, five_each(), "--salt", "s")
    text = make_dump(tmp_path / "x", five_each()).read_bytes()
    pack = zstandard.ZstdCompressor().compress
    dump = tmp_path / "RC.zst"
    dump.write_bytes(pack(text[:333]) + pack(text[333:]))
    assert prepare.main(["pushshift", str(dump), str(tmp_path / "zst"), "--salt", "s"]) == 0
    assert (read(tmp_path / "zst" / TRAIN), read(tmp_path / "zst" / TEST)) == plain
    fresh = tmp_path / "fresh"
    dump.write_bytes(dump.read_bytes()[:-5])
    assert_fails(capsys, fresh, ["pushshift", dump, fresh], "RC.zst", "in the middle of a zstd frame")
    dump.write_bytes(b"no zstd at all")
    assert_fails(capsys, fresh, ["pushshift", dump, fresh], "RC.zst", "cannot be read")


def test_zst_without_the_package_says_what_to_install(tmp_path, out, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    dump = make_dump(tmp_path / "RC.zst", [])
    assert_fails(capsys, out, ["pushshift", dump, out], "RC.zst", "pip install zstandard")


def test_uids_do_not_reveal_names(tmp_path):
    records = [*five_each(), comment("Alice_Q", 200, "I think that /u/BobbyTables and u/carol99 are right")]
    first = run_dump(tmp_path, records)
    everything = "".join(path.read_text() for path in (tmp_path / "out").rglob("*.json"))
    for name in NAMES:
        assert name.lower() not in everything.lower()
        assert pushshift.author_key(name).hex()[:16] not in everything
    second = run_dump(tmp_path, records)
    assert not set(first[0]["users"]) & set(second[0]["users"])  # another salt in every run
    assert sorted(map(str, words_of(first[0]).values())) == sorted(map(str, words_of(second[0]).values()))


def test_same_salt_gives_the_same_uids(tmp_path):
    assert run_dump(tmp_path, five_each(), "--salt", "s") == run_dump(tmp_path, five_each(), "--salt", "s")
    assert pushshift.user_id(b"key", "s") != pushshift.user_id(b"key", "t")


def test_no_test_comment_is_older_than_a_train_comment(tmp_path):
    order = [7, 2, 9, 0, 4, 1, 8, 3, 6, 5]
    spoken = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    records = [comment("Alice_Q", when, f"word number {spoken[when]} of the whole") for when in order]
    records[2]["created_utc"] = str(records[2]["created_utc"])  # some dumps write it as a string
    train, test = run_dump(tmp_path, records)
    (uid,) = train["users"]
    assert [text.split()[2] for text in words_of(train)[uid]] == spoken[:6]
    assert [text.split()[2] for text in words_of(test)[uid]] == spoken[6:]


@pytest.mark.parametrize(("fraction", "number"), [(0.6, 6), (0.99, 9), (0.01, 1), (0.7, 7)])
def test_train_fraction(tmp_path, fraction, number):
    records = [comment("Alice_Q", when) for when in range(10)]
    train, test = run_dump(tmp_path, records, "--train-fraction", fraction)
    assert (train["num_samples"], test["num_samples"]) == ([number], [10 - number])


def test_users_outside_the_comment_limits_are_dropped(tmp_path):
    many = {"four": 4, "five": 5, "seven": 7, "eight": 8}
    records = [comment(name, when) for name, number in many.items() for when in range(number)]
    train, test = run_dump(tmp_path, records, "--max-comments", 7)
    sizes = [a + b for a, b in zip(train["num_samples"], test["num_samples"], strict=True)]
    assert sorted(sizes) == [5, 7]


def test_gone_short_and_bot_comments_do_not_count(tmp_path):
    dropped = [
        comment("Alice_Q", 1, "[deleted]"),
        comment("Alice_Q", 2, "[removed]"),
        comment("Alice_Q", 3, "too short ."),
        comment("Alice_Q", 4, "Beep boop, I am a bot and I do as I am told"),
        comment("Alice_Q", 5, "Your comment has been removed for breaking a rule"),
    ]
    for name in ("[deleted]", "AutoModerator", "RemindMeBot", "some_bot"):
        dropped += [comment(name, when) for when in range(6)]
    train, test = run_dump(tmp_path, five_each() + dropped)
    assert (train["num_samples"], test["num_samples"]) == ([3] * 4, [2] * 4)


def test_repeated_lines_are_kept_once(tmp_path):
    records = [comment("Alice_Q", when) for when in range(6)]
    train, test = run_dump(tmp_path, records + records[:3])
    assert (train["num_samples"], test["num_samples"]) == ([3], [3])


def test_users_who_fall_short_without_repeated_lines_are_told_of(tmp_path, caplog):
    short = [comment("Bob_R", when) for when in range(3)]
    records = [comment("Alice_Q", when) for when in range(5)] + short
    train, _ = run_dump(tmp_path, records + short)
    assert train["num_samples"] == [3]
    assert "repeats lines: without them 1 of 2 users have too few" in caplog.text


def test_a_dump_that_is_nothing_but_repeated_lines_is_refused(tmp_path, out, capsys):
    dump = make_dump(tmp_path / "dump.jsonl", [comment("Bob_R", when) for when in range(3)] * 2)
    assert_fails(capsys, out, ["pushshift", dump, out], "without them no user has 5 usable comments")


def test_sample_depends_on_the_seed_and_not_on_salt_or_order(tmp_path):
    names = [f"person{number}" for number in range(30)]
    records = [comment(name, when, f"this was said by some{name}") for name in names for when in range(5)]

    def chosen(records, *options):
        train, _ = run_dump(tmp_path, records, "--users", 6, *options)
        return sorted(text for texts in words_of(train).values() for text in texts)

    first = chosen(records, "--seed", 1)
    assert len(set(first)) == 6
    assert chosen(records[::-1], "--seed", 1, "--salt", "other") == first
    assert chosen(records, "--seed", 2) != first


def test_buckets_do_not_change_the_result(tmp_path, monkeypatch):
    whole = run_dump(tmp_path, five_each(), "--salt", "s")
    monkeypatch.setattr(pushshift, "_BUCKET_COMMENTS", 7)
    assert run_dump(tmp_path, five_each(), "--salt", "s") == whole


def test_vocabulary_counts_train_only(tmp_path):
    texts = ["b b b a a", "c c b a zz", "c a b d d", "later words only in test", "later words only in test"]
    run_dump(tmp_path, [comment("Alice_Q", when, text) for when, text in enumerate(texts)], "--vocab-size", 8)
    # b 5; a 4; then <BOS>, <EOS> and c 3 each, in the order of the alphabet; d 2 fills the eighth id, zz has none.
    words = ["<PAD>", "<UNK>", "b", "a", "<BOS>", "<EOS>", "c", "d"]
    assert read(tmp_path / "out/vocab.json") == {
        "vocab": {word: number for number, word in enumerate(words)},
        "size": 8,
        "unk_symbol": 1,
        "pad_symbol": 0,
    }


def test_small_vocabulary_says_its_own_size():
    built = vocabulary.build_vocab({"<PAD>": 50, "x": 1, "w": 1}, 10_000)
    assert built == {"vocab": {"<PAD>": 0, "<UNK>": 1, "w": 2, "x": 3}, "size": 4, "unk_symbol": 1, "pad_symbol": 0}


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b"{", "malformed"),
        (b"[]", "not a JSON object"),
        (b"\xff", "malformed"),
        (b"[" * 100_000, "malformed"),
        (json.dumps({**comment("a", 1), "body": None}).encode(), "'body' is missing or not a string"),
        (json.dumps({**comment("a", 1), "created_utc": "now"}).encode(), "'created_utc'"),
        (b'{"author":"a","body":"b","subreddit":"s","id":"i","created_utc":Infinity}', "'created_utc'"),
        (b'{"author":"a","body":"b","subreddit":"s","id":"i"}', "'created_utc'"),
    ],
)
def test_malformed_line_names_file_and_line(tmp_path, out, capsys, line, part):
    dump = make_dump(tmp_path / "dump.jsonl", [comment("a", 1), b"", line])
    assert_fails(capsys, out, ["pushshift", dump, out], "dump.jsonl: line 3: malformed", part)


@pytest.mark.parametrize(("suffix", "opener"), [(".bz2", bz2.open), (".gz", gzip.open)])
def test_cut_dump(tmp_path, out, capsys, suffix, opener):
    dump = make_dump(tmp_path / f"RC{suffix}", five_each(), opener)
    dump.write_bytes(dump.read_bytes()[:-9])
    assert_fails(capsys, out, ["pushshift", dump, out], f"RC{suffix}: cannot be read after line")
    dump.write_bytes(b"not packed")
    assert_fails(capsys, out, ["pushshift", dump, out], f"RC{suffix}: cannot be read after line 0")


def test_missing_dump_and_unknown_suffix(tmp_path, out, capsys):
    assert_fails(capsys, out, ["pushshift", tmp_path / "none.bz2", out], "none.bz2", "no such file")
    dump = make_dump(tmp_path / "RC.rar", [])
    assert_fails(capsys, out, ["pushshift", dump, out], "RC.rar", "unknown suffix '.rar'")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--users", "5"], "4 of 4 users have 5 to 1000 usable comments, 5 needed"),
        (["--min-comments", "6"], "0 of 4 users"),
        (["--users", "0"], "--users 0"),
        (["--min-comments", "1"], "--min-comments 1"),
        (["--max-comments", "4"], "--max-comments 4"),
        (["--train-fraction", "1"], "--train-fraction 1.0"),
        (["--train-fraction", "nan"], "--train-fraction nan"),
        (["--vocab-size", "2"], "--vocab-size 2"),
        (["--salt", ""], "--salt is empty"),
    ],
)
def test_settings_that_cannot_be_met(tmp_path, out, capsys, options, part):
    dump = make_dump(tmp_path / "dump.jsonl", five_each())
    assert_fails(capsys, out, ["pushshift", dump, out, *options], part)


# ---- as a user runs it ----


def test_the_script_runs_by_itself(leaf_zip, out, tmp_path):
    def run(*argv):
        command = [sys.executable, "-W", "error", str(LM_DATA / "prepare.py"), *map(str, argv)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    same = leaf_json(a=["one"])
    good = run("leaf", leaf_zip(train=same, test=same), out)
    assert good.returncode == 0
    assert "WARNING: 1 of 1 test sequences" in good.stderr
    again = run("leaf", leaf_zip(), out)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert again.stderr.count("\n") == 1
    dump = make_dump(tmp_path / "dump.jsonl", five_each())
    made = run("pushshift", dump, tmp_path / "reddit")
    assert made.returncode == 0
    assert made.stdout.split() == [str(tmp_path / "reddit" / name) for name in (TRAIN, TEST, "vocab.json")]
    assert run().returncode == 2


def test_shipped_data_is_what_the_readme_says():
    sequences = {}
    for name in (TRAIN, TEST):
        content = read(LM_DATA / name)
        assert len(content["users"]) == 829
        assert_matching(content)
        sequences[name] = sum(len(x) for entry in content["user_data"].values() for x in entry["x"])
    assert sequences == {TRAIN: 67_850, TEST: 24_271}
    assert vocabulary.usable_vocab(read(LM_DATA / "vocab.json")) == read(LM_DATA / "vocab.json")
