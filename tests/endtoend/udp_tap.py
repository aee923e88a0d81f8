"""A place on the way of datagrams from which they are overheard, and from which others are sent."""

import contextlib
import select
import socket
import threading
from typing import Self

_LIMIT = 60.0
_LARGEST = 65536


class UdpTap:
    """Passes datagrams on to a port of this machine and back, in a thread, and keeps a copy of each.

    Args:
        port: of the other side.

    Attributes:
        up: what came from the sender, in order.
        down: what came back.
    """

    def __init__(self, port: int) -> None:
        self._near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._near.bind(("127.0.0.1", 0))
        self.port = int(self._near.getsockname()[1])
        self._far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._far.connect(("127.0.0.1", port))
        self._sender: tuple[str, int] | None = None
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(_LIMIT)
        self._near.close()
        self._far.close()

    def send_back(self, data: bytes) -> None:
        """Send something to the sender as if it came from the station."""
        if self._sender is not None:
            self._near.sendto(data, self._sender)

    def _pass_on(self) -> None:
        while not self._ending.is_set():
            ready, _, _ = select.select([self._near, self._far], [], [], 0.1)
            # Refused connections: the other side is not there, which is what datagrams are for.
            with contextlib.suppress(ConnectionError):
                if self._near in ready:
                    data, self._sender = self._near.recvfrom(_LARGEST)
                    self.up.append(data)
                    self._far.send(data)
            with contextlib.suppress(ConnectionError):
                if self._far in ready:
                    data = self._far.recv(_LARGEST)
                    self.down.append(data)
                    if self._sender is not None:
                        self._near.sendto(data, self._sender)
