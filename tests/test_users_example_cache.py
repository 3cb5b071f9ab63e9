"""Entries of a cache of prepared examples: whole or not used, whatever happens to them or beside them."""

import os
import time

import pytest

from simulator.users import example_cache
from simulator.users.example_cache import (
    ABANDONED_SECONDS,
    UNUSED_SECONDS,
    CachedUser,
    CacheUse,
    Damaged,
    read_entry,
    sweep,
    write_entry,
)
from simulator.users.prepared_cache import PreparedUse

USERS = [CachedUser("a", 2, b"x" * 40), CachedUser("ä/b", 1, b""), CachedUser("c", 3, b"yz")]
KEY = "0" * 32


def write(folder, users=USERS, key=KEY):
    writer = write_entry(folder, key)
    for each in users:
        writer.add(each.uid, each.count, each.payload)
    writer.finish()
    return folder / f"{key}.users"


@pytest.mark.parametrize("block_bytes", [1, 41, 1 << 20])
def test_users_come_back_in_their_order(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(example_cache, "BLOCK_BYTES", block_bytes)
    write(tmp_path / "new" / "folder")
    assert list(read_entry(tmp_path / "new" / "folder", KEY)) == USERS
    assert [path.suffix for path in (tmp_path / "new" / "folder").iterdir()] == [".users"]


def test_an_entry_of_nobody_is_an_entry(tmp_path):
    write(tmp_path, [])
    assert list(read_entry(tmp_path, KEY)) == []
    assert read_entry(tmp_path, "1" * 32) is None


def test_only_its_owner_can_read_it(tmp_path):
    path = write(tmp_path / "cache")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_any_byte_that_differs_and_any_cut_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(example_cache, "BLOCK_BYTES", 41)
    path = write(tmp_path)
    whole = path.read_bytes()
    changed = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for content in changed + [whole[:at] for at in range(len(whole))]:
        path.write_bytes(content)
        with pytest.raises(Damaged):
            list(read_entry(tmp_path, KEY))


def test_blocks_that_are_left_out_or_of_another_key_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(example_cache, "BLOCK_BYTES", 1)
    path = write(tmp_path)
    whole = path.read_bytes()
    first = 16 + 16 + 16 + 1 + 40  # head, digest; head of the user, uid, payload
    path.write_bytes(whole[first:])
    with pytest.raises(Damaged):
        list(read_entry(tmp_path, KEY))
    (tmp_path / f"{'1' * 32}.users").write_bytes(whole)
    with pytest.raises(Damaged):
        list(read_entry(tmp_path, "1" * 32))


def test_what_is_not_finished_is_not_there(tmp_path):
    writer = write_entry(tmp_path, KEY)
    writer.add("a", 1, b"x")
    assert read_entry(tmp_path, KEY) is None
    writer.drop()
    assert list(tmp_path.iterdir()) == []


def test_two_that_write_the_same_at_once_leave_one_whole_entry(tmp_path):
    one, other = write_entry(tmp_path, KEY), write_entry(tmp_path, KEY)
    for each in USERS:
        one.add(each.uid, each.count, each.payload)
        other.add(each.uid, each.count, each.payload)
    one.finish()
    reading = read_entry(tmp_path, KEY)
    assert next(reading) == USERS[0]
    other.finish()
    assert list(reading) == USERS[1:]
    assert list(read_entry(tmp_path, KEY)) == USERS
    assert len(list(tmp_path.iterdir())) == 1


def test_what_nobody_uses_goes_and_nothing_else(tmp_path):
    used, unused = write(tmp_path, key="1" * 32), write(tmp_path, key="2" * 32)
    others = [tmp_path / "notes.users", tmp_path / "film.part"]
    abandoned, under_way = (tmp_path / f"{KEY}-{name}.part" for name in ("a_b1", "x"))
    for path in (*others, abandoned, under_way):
        path.touch()
    now = time.time()
    for path, age in ((used, UNUSED_SECONDS - 60), (unused, UNUSED_SECONDS + 60), (others[0], 9 * UNUSED_SECONDS),
                      (others[1], 9 * UNUSED_SECONDS), (abandoned, ABANDONED_SECONDS + 60)):  # fmt: skip
        os.utime(path, (now - age, now - age))
    list(read_entry(tmp_path, "1" * 32))
    assert now - used.stat().st_mtime < 60, "a use counts"
    assert sweep(tmp_path) == 2
    assert sorted(tmp_path.iterdir()) == sorted([used, *others, under_way])
    assert sweep(tmp_path / "missing") == 0


def test_a_key_is_of_the_files_name_and_content(tmp_path):
    day = tmp_path / "data" / "20200101"
    day.mkdir(parents=True)
    (day / "a").write_bytes(b"1")
    use = CacheUse(tmp_path, "k", tmp_path / "data")
    key = use.key_of(day / "a")
    (day / "b").write_bytes(b"1")
    assert use.key_of(day / "b") != key
    assert CacheUse(tmp_path, "l", tmp_path / "data").key_of(day / "a") != key
    (day / "a").write_bytes(b"2")
    assert use.key_of(day / "a") != key
    (day / "a").write_bytes(b"1")
    assert use.key_of(day / "a") == key
    (tmp_path / "data").rename(tmp_path / "moved")
    assert CacheUse(tmp_path, "k", tmp_path / "moved").key_of(tmp_path / "moved" / "20200101" / "a") == key


def test_what_was_prepared_is_of_the_files_it_saw(tmp_path):
    file = tmp_path / "data" / "a"
    file.parent.mkdir()
    file.write_bytes(b"1")
    use = PreparedUse(tmp_path / "cache", "k", tmp_path / "data", (file,))
    assert use.read() is None
    use.write('{"scale": 2}', use.looks())
    assert use.read() == '{"scale": 2}'
    before = use.looks()
    file.write_bytes(b"2")
    assert use.read() is None
    use.write('{"scale": 3}', before)
    assert use.read() is None, "a file has changed while it was made"
