"""A wire for TCP connections that can be cut."""

import contextlib
import socket
import struct
import threading
from typing import Self

_LIMIT = 60.0


class TcpCut:
    """Passes connections on to a port of this machine, in threads; all of them break at `cut`.

    Args:
        port: of the other side.
    """

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_LIMIT)
        self.cut()

    def cut(self) -> int:
        """Break all connections, with a reset at either end; return how many there were."""
        with self._lock:
            cut, self._open = self._open, set()
        for end in cut:
            # Linger of no time: what is not delivered yet never will be (SO_LINGER of socket(7)).
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD)
            end.close()
        return len(cut) // 2

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._to)
                except OSError:
                    near.close()
                    continue
                with self._lock:
                    self._open |= {near, far}
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with self._lock:
            broken = {source, sink} & self._open
            self._open -= broken
        for end in broken:
            end.close()
