"""Connects to addresses again and again and says nothing, holds what it has got, until SIGTERM or by itself.

Usage: python flood.py SECONDS CONNECTIONS HOST:PORT...  Prints how many it has made, and how many at once.
"""

import contextlib
import resource
import selectors
import signal
import socket
import sys
import time


def main(seconds, connections, addresses):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    end, made, most, held = time.monotonic() + seconds, 0, 0, {}
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    with selectors.DefaultSelector() as watch:
        while not stop and time.monotonic() < end:
            for _ in range(min(200, connections - len(held))):
                peer = socket.socket()
                peer.setblocking(False)
                host, _, port = addresses[made % len(addresses)].rpartition(":")
                made += 1
                with contextlib.suppress(BlockingIOError):
                    peer.connect((host, int(port)))
                watch.register(peer, selectors.EVENT_READ)
                held[peer] = True
            most = max(most, len(held))
            for key, _ in watch.select(0.02):
                # Cut off: another takes its place.
                watch.unregister(key.fileobj)
                key.fileobj.close()
                del held[key.fileobj]
    print(made, most, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
