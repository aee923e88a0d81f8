"""ZeroMQ sockets as narrow links need them: bounds, heartbeats, back-off."""

import asyncio
import random
import socket

import zmq
import zmq.asyncio

from shared.transports.base import LARGEST_PACKET

_SEALED_MORE = 64
"""Bytes that ZeroMQ counts beside those of a packet where CURVE seals it: 33 (CurveZMQ, RFC 26), and some to spare."""

_MESSAGES_UNREAD = 64
_MESSAGES_UNSENT = 10_000
"""A last line only: credit bounds bytes long before."""

_HEARTBEAT_BYTES = 9 + 52 + 52
"""A PING of ZMTP, the TCP and IP headers around it, and those around the acknowledgement of its PONG."""

_HEARTBEAT_SHARE = 0.01
_HEARTBEAT_EVERY = 15.0
_HEARTBEAT_AT_MOST_EVERY = 1600.0
_SILENCES_ALLOWED = 3
_ANSWER_WITHIN = 45.0
"""Seconds: on a narrow link a heartbeat may well stand behind some seconds of pictures, and both behind a satellite."""

_HANDSHAKE_AT_MOST = 60_000
_SEND_BUFFER = 16384
"""Bytes. What the kernel holds is out of the sender's hands: on a narrow link a full default buffer is minutes old."""

_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_COUNT = 600, 60, 5


def heartbeat_seconds(rate: float | None) -> float:
    """Seconds between a client's heartbeats: they take less than a hundredth of the link.

    Args:
        rate: bit/s, None for no limit.
    """
    if rate is None:
        return _HEARTBEAT_EVERY
    affordable = _HEARTBEAT_BYTES * 8 / (_HEARTBEAT_SHARE * rate)
    return min(max(_HEARTBEAT_EVERY, affordable), _HEARTBEAT_AT_MOST_EVERY)


def client_socket(context: zmq.asyncio.Context, family: socket.AddressFamily, rate: float | None) -> zmq.asyncio.Socket:
    """A DEALER for one connection, which takes nothing while it does not stand and is not tried again."""
    dealer = _socket(context, zmq.DEALER, family)
    dealer.setsockopt(zmq.IMMEDIATE, 1)
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    dealer.setsockopt(zmq.SNDBUF, _SEND_BUFFER)
    every = heartbeat_seconds(rate)
    silence = max(_ANSWER_WITHIN, _SILENCES_ALLOWED * every)
    dealer.setsockopt(zmq.HEARTBEAT_IVL, int(every * 1000))
    dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(silence * 1000))
    # How long the station is to hear nothing before it gives the connection up.
    dealer.setsockopt(zmq.HEARTBEAT_TTL, int((every + silence) * 1000) // 100 * 100)
    return dealer


def station_socket(context: zmq.asyncio.Context, family: socket.AddressFamily) -> zmq.asyncio.Socket:
    """A ROUTER. It sends no heartbeats, for their answers would cost senders as much as their own."""
    router = _socket(context, zmq.ROUTER, family)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.TCP_KEEPALIVE, 1)
    router.setsockopt(zmq.TCP_KEEPALIVE_IDLE, _KEEPALIVE_IDLE)
    router.setsockopt(zmq.TCP_KEEPALIVE_INTVL, _KEEPALIVE_INTERVAL)
    router.setsockopt(zmq.TCP_KEEPALIVE_CNT, _KEEPALIVE_COUNT)
    return router


def _socket(context: zmq.asyncio.Context, kind: int, family: socket.AddressFamily) -> zmq.asyncio.Socket:
    made = context.socket(kind)
    made.setsockopt(zmq.IPV6, int(family == socket.AF_INET6))
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.RCVHWM, _MESSAGES_UNREAD)
    made.setsockopt(zmq.SNDHWM, _MESSAGES_UNSENT)
    made.setsockopt(zmq.MAXMSGSIZE, LARGEST_PACKET + _SEALED_MORE)
    made.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_AT_MOST)
    return made


async def end_context(context: zmq.asyncio.Context) -> None:
    """End a context whose sockets are closed; that waits for what lingers, so it must not hold the event loop."""
    await asyncio.to_thread(context.term)


class BackOff:
    """Pauses that double, each shortened at random by up to half, so that a fleet does not come back all at once.

    Args:
        first: seconds.
        most: seconds.
        chance: source of randomness.
    """

    def __init__(self, first: float, most: float, chance: random.Random | None = None) -> None:
        self._first = first
        self._most = most
        self._next = first
        self._chance = chance or random.Random()

    def pause(self) -> float:
        """Seconds to wait before the next attempt."""
        pause = self._next * self._chance.uniform(0.5, 1.0)
        self._next = min(2.0 * self._next, self._most)
        return pause

    def reset(self) -> None:
        """An attempt was a success."""
        self._next = self._first
