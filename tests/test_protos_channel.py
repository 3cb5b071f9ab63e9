"""protos/channel.py: a server has all of its threads from the start, or there is none."""

import threading

import pytest

from protos.channel import make_server
from protos.gate import Gate


def threads_of_pools() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("grpc_")}


def test_all_threads_of_a_server_are_there_when_it_is(tmp_path):
    before = threads_of_pools()
    server, _ = make_server(lambda server: None, f"unix:{tmp_path}/socket", 7, Gate([0]))
    assert len(threads_of_pools() - before) == 7
    server.stop(None).wait()


def test_a_server_whose_threads_cannot_be_started_is_none(tmp_path, monkeypatch):
    """It would be deaf later, when a call needs the thread that is missing."""
    before, start = threads_of_pools(), threading.Thread.start

    def refuse_the_fifth(thread):
        if len(threads_of_pools() - before) == 4:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_the_fifth)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        make_server(lambda server: None, f"unix:{tmp_path}/socket", 7, Gate([0]))
    monkeypatch.undo()
    for thread in threads_of_pools() - before:
        thread.join(10)
    assert threads_of_pools() <= before
    assert not (tmp_path / "socket").exists()
