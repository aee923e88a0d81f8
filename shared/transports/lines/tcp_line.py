"""A TCP connection as a line of bytes."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import cast

from shared.errors import PinholeError

_CONNECT_WITHIN = 10.0
_SEND_BUFFER = 16384
"""Bytes asked of the kernel: what it holds can neither be recalled nor overtaken."""

_LINGER = 1.0


class TcpLine(asyncio.Protocol):
    """See `shared.transports.lines.byte_stream.Line`; open it with `connect_tcp_line`."""

    def __init__(self, url: str, on_data: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        self._url = url
        self._on_data = on_data
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._failure: str | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = asyncio.Event()

    @property
    def fresh(self) -> bool:
        """See `Line`: frames never break off here, and there is no noise between them."""
        return False

    async def write(self, data: bytes) -> None:
        """See `Line`."""
        await self._writable.wait()
        if self._failure is not None or self._transport is None:
            raise PinholeError(f"{self._url}: {self._failure or 'not connected'}")
        self._transport.write(data)

    async def close(self) -> None:
        """See `Line`."""
        if self._transport is None:
            return
        self._stop("closed")
        self._transport.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                await self._ended.wait()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._on_data(data)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        detail = f" ({exc.strerror})" if isinstance(exc, OSError) and exc.strerror else ""
        self._stop(f"the connection has ended{detail}; see whether the modem still runs")
        self._writable.set()
        self._ended.set()

    def _stop(self, reason: str) -> None:
        if self._failure is None:
            self._failure = reason
            self._on_end(reason)


async def connect_tcp_line(
    host: str,
    port: int,
    url: str,
    on_data: Callable[[bytes], None],
    on_end: Callable[[str], None],
    depth: int,
) -> TcpLine:
    """Connect to a server.

    Args:
        host: name or number.
        port: above 0.
        url: for errors.
        on_data: gets received bytes.
        on_end: gets the reason when the connection ends.
        depth: bytes that may wait beside those in the kernel when another frame is given.

    Raises:
        PinholeError: if it cannot be reached.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_WITHIN):
            transport, line = await loop.create_connection(lambda: TcpLine(url, on_data, on_end), host, port)
    except TimeoutError as error:
        raise PinholeError(f"{url}: no answer within {_CONNECT_WITHIN:g} s; see whether the modem runs") from error
    except (OSError, UnicodeError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
            # What asyncio says itself is "connect call failed" and the number.
            reason = os.strerror(error.errno)
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise PinholeError(f"{url}: cannot connect there ({reason.lower()}); see whether the modem runs") from error
    transport.set_write_buffer_limits(high=depth, low=0)
    with contextlib.suppress(OSError):
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return line
