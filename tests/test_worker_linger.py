"""simulator/worker/linger.py: input is seen, and without any the wait has an end."""

import os
import threading
import time

from simulator.worker.linger import linger


def test_input_that_is_there_is_seen_at_once():
    read, write = os.pipe()
    os.write(write, b"x")
    assert linger(read, seconds=60)
    os.close(write)
    assert linger(read, seconds=60)  # and so is the end
    os.close(read)


def test_input_that_comes_ends_the_wait():
    read, write = os.pipe()
    found = []
    waiter = threading.Thread(target=lambda: found.append(linger(read, seconds=60)))
    waiter.start()
    os.write(write, b"x")
    waiter.join(20)
    assert found == [True]
    os.close(read)
    os.close(write)


def test_nothing_comes_and_the_wait_ends():
    read, write = os.pipe()
    began = time.perf_counter()
    assert not linger(read, seconds=0.01)
    assert time.perf_counter() - began >= 0.01
    os.close(read)
    os.close(write)


def test_what_else_is_looked_for_ends_the_wait():
    read, write = os.pipe()
    looks = iter([False, False, True])
    assert linger(read, seconds=60, until=lambda: next(looks))
    os.close(read)
    os.close(write)
