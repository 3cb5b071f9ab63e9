"""Keep-alive pings find a host that is cut off; they may not mistake a busy one for it."""

import subprocess
import sys
import threading

import grpc
import pytest
from doors import GATE, keys
from running import ROOT, environment

from protos.channel import KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS, make_channel, make_server

# Long enough for a ping, its time-out and more.
SECONDS = (KEEPALIVE_MS + KEEPALIVE_TIMEOUT_MS) // 1000 + 3
# As a trainer or a sampler may do: native code that keeps Python's lock for all that time.
BUSY_SERVER = """
import ctypes, sys, grpc
from protos.channel import make_server
from protos.gate import Gate, Keys
def hold(request, context):
    ctypes.PyDLL(None).sleep(int(sys.argv[1]))
    return request
class Door(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(hold)
gate = Gate([1])
server, address = make_server(lambda server: server.add_generic_rpc_handlers((Door(),)), sys.argv[2], 2, gate)
print(Keys(1, {0: gate.ticket(1)}).shown_to(0)[0][1], flush=True)
sys.stdin.read()
"""
BUSY_CLIENT = """
import ctypes, sys
from protos.channel import make_channel
with make_channel(sys.argv[2]) as channel:
    metadata = (("flsim-ticket", sys.argv[3]),)
    answer = channel.unary_unary("/any.Service/Wait").future(b"hello", timeout=60, metadata=metadata)
    sys.stdin.readline()
    ctypes.PyDLL(None).sleep(int(sys.argv[1]))
    print(answer.result().decode(), flush=True)
"""


def process(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(SECONDS), *arguments],
        env=environment(), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


class Waiting(grpc.GenericRpcHandler):
    """A call that is answered when the test says so."""

    def __init__(self):
        self.called, self.answer, self.gone = threading.Event(), threading.Event(), threading.Event()

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.wait)

    def wait(self, request, context):
        context.add_callback(self.gone.set)
        self.called.set()
        assert self.answer.wait(60)
        return b"late"


@pytest.mark.slow
def test_a_server_that_holds_pythons_lock_is_not_taken_for_gone(tmp_path):
    address = f"unix:{tmp_path}/socket"
    busy = process(BUSY_SERVER, address)
    try:
        metadata = (("flsim-ticket", busy.stdout.readline().strip()),)
        with make_channel(address) as channel:
            assert channel.unary_unary("/any.Service/Hold")(b"hello", timeout=60, metadata=metadata) == b"hello"
    finally:
        busy.communicate(timeout=30)


@pytest.mark.slow
def test_a_client_that_holds_pythons_lock_is_not_taken_for_gone(tmp_path):
    waiting, where = Waiting(), f"unix:{tmp_path}/socket"
    server, address = make_server(lambda server: server.add_generic_rpc_handlers((waiting,)), where, 2, GATE)
    busy = process(BUSY_CLIENT, address, keys(1).shown_to(0)[0][1])
    try:
        assert waiting.called.wait(30)
        busy.stdin.write("now\n")
        busy.stdin.flush()
        assert not waiting.gone.wait(SECONDS - 1)
        waiting.answer.set()
        assert busy.communicate(timeout=30)[0] == "late\n"
    finally:
        busy.kill()
        assert server.stop(0).wait(30)
