"""One connection to a broker: aiomqtt's client, which also tells what it otherwise keeps to itself.

aiomqtt drops the reason in acknowledgements, the properties of the broker's welcome, the cause of a failed connection,
and has no bound in bytes for what came in. Its hooks into paho are overridden here for these; everything that relies on
the inside of aiomqtt stands in this module. A `Broker` is good for one connection: what aiomqtt remembers of a broken
one gets in the way of the next.
"""

import asyncio
import contextlib
import logging
import socket
import traceback
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from shared.transports.base import LARGEST_PACKET
from shared.transports.mqtt.reasons import FAILURE, ClosedEarlyError, RefusedError, refusal

_Result = TypeVar("_Result")

_OVERHEAD = 512
"""Bytes that a message may take beside the packet: topic, properties, lengths."""

_TURNS_TO_TIDY = 100
_TURN = 0.01


class BrokerWatch(Protocol):
    """Who is told what happens on a connection; called in the event loop, must not raise."""

    def on_message(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """A message came in."""

    def on_published(self, number: int, reason: ReasonCode) -> None:
        """A message of QoS 1 was acknowledged, or one of QoS 0 written."""

    def on_room(self) -> None:
        """All that was handed over is written; the socket takes more."""


class _LastError(logging.Handler):
    """paho tells why a socket failed in its log alone."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


class Broker(aiomqtt.Client):
    """A connection, to be entered once; arguments beside ``watch`` and ``unsent`` are those of `aiomqtt.Client`.

    Args:
        watch: is told what happens.
        unsent: bytes that may wait in the kernel before the socket counts as full, None for no limit of ours.
        timeout: seconds for each of looking up, connecting, TLS, and the broker's answers.
        receive_maximum: messages of QoS 1 that the broker may have on their way to us.
        session_expiry: seconds for which the broker keeps the session after the connection broke.
    """

    def __init__(
        self,
        hostname: str,
        port: int,
        *,
        watch: BrokerWatch,
        unsent: int | None,
        timeout: float,
        receive_maximum: int,
        session_expiry: int,
        **others: Any,
    ) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = session_expiry
        properties.ReceiveMaximum = receive_maximum
        properties.MaximumPacketSize = LARGEST_PACKET + _OVERHEAD
        log = logging.Logger("pinhole.mqtt", logging.ERROR)
        self._last_error = _LastError()
        log.addHandler(self._last_error)
        super().__init__(
            hostname,
            port,
            protocol=aiomqtt.ProtocolVersion.V5,
            timeout=timeout,
            properties=properties,
            logger=log,
            socket_options=_socket_options(unsent),
            **others,
        )
        self._client.connect_timeout = timeout
        # Our window is bounded by the broker's receive maximum, so paho's own need not hold anything back.
        self._client.max_inflight_messages_set(0)
        self._watch = watch
        self._writes_to: object = None
        self.failure: Exception | None = None
        self.welcome: Properties | None = None
        """Properties of the broker's CONNACK."""

    @property
    def detail(self) -> Exception | str | None:
        """What lay below the last error, if anything is known of it."""
        return self.failure or self._last_error.text

    @property
    def idle(self) -> bool:
        """Whether everything that was handed over is with the kernel."""
        return not self._client.want_write()

    def limit(self, name: str, default: int) -> int:
        """A number from the broker's welcome (MQTT 5, section 3.2.2.3), such as ``ReceiveMaximum``."""
        value = getattr(self.welcome, name, default)
        return value if isinstance(value, int) else default

    def hand(
        self, topic: str, payload: bytes, *, qos: int, retain: bool = False, expiry: int | None = None, alias: int = 0
    ) -> int:
        """Hand a message to the connection, which writes it soon; `BrokerWatch.on_published` tells the rest.

        Args:
            topic: may be empty if ``alias`` was set with the topic before.
            payload: the message.
            qos: 0 or 1.
            retain: whether the broker keeps it for those who come later.
            expiry: seconds after which the broker drops it, None for never.
            alias: number that stands for the topic from now on, 0 for none.

        Returns:
            The message's number.

        Raises:
            aiomqtt.MqttError: if the connection is broken.
        """
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if expiry is not None:
            properties.MessageExpiryInterval = expiry
        if alias:
            properties.TopicAlias = alias
        info = self._client.publish(topic, payload, qos, retain, properties)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttCodeError(info.rc, "could not publish")
        return info.mid

    async def join(self, filters: Sequence[tuple[str, SubscribeOptions]]) -> None:
        """Subscribe.

        Raises:
            RefusedError: if the broker refuses one of the filters.
            aiomqtt.MqttError: if the connection breaks.
        """
        # An empty list would be a protocol error.
        if not filters:
            return
        codes = await self.unless_gone(self.subscribe([*filters]))
        for (topic, _), code in zip(filters, codes, strict=False):
            if isinstance(code, ReasonCode) and code.value >= FAILURE:
                raise RefusedError(refusal(f"the subscription to {topic}", code))

    async def leave(self, filters: Sequence[str]) -> None:
        """Unsubscribe.

        Raises:
            aiomqtt.MqttError: if the connection breaks.
        """
        if filters:
            await self.unless_gone(self.unsubscribe([*filters]))

    async def unless_gone(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Wait for something, but no longer than the connection lasts.

        Raises:
            aiomqtt.MqttError: if it breaks.
        """
        task = asyncio.ensure_future(coroutine)
        try:
            await asyncio.wait((task, self._disconnected), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise aiomqtt.MqttError("the connection broke") from self.gone_because()
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def give_up(self) -> None:
        """Wait no longer for the broker's answer to the first message; an attempt under way fails."""
        if not self._connected.done():
            self._connected.set_exception(ClosedEarlyError("given up before the broker answered"))

    async def until_gone_or(self, stop: asyncio.Event) -> None:
        """Wait until the connection is broken or ``stop`` set."""
        with contextlib.suppress(aiomqtt.MqttError):
            await self.unless_gone(stop.wait())

    def gone_because(self) -> BaseException | None:
        """What broke the connection, None if it stands or was closed in order."""
        return self._disconnected.exception() if self._disconnected.done() else None

    async def disconnect(self, within: float, *, orderly: bool) -> None:
        """Close, by force if need be, so that no socket or task is left over.

        Args:
            within: seconds for the farewell.
            orderly: say goodbye, if the broker still reads; otherwise it publishes the will.
        """
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError, OSError):
            if orderly and self._client.is_connected():
                async with asyncio.timeout(within):
                    await self.__aexit__(None, None, None)
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                # The reader of the socket now sees its end, and paho and aiomqtt tidy up behind it.
                sock.shutdown(socket.SHUT_RDWR)
        for _ in range(_TURNS_TO_TIDY):
            if self._client.socket() is None:
                break
            await asyncio.sleep(_TURN)
        task = self._misc_task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        # What nobody asked for asyncio would print at the end, with a traceback.
        self.gone_because()
        if self._connected.done() and not self._connected.cancelled():
            self._connected.exception()

    def _client_connect(self) -> None:
        try:
            super()._client_connect()
        except Exception as error:
            self.failure = error
            # paho leaves the socket of a failed handshake open, in the frames that the error came through.
            for frame, _ in traceback.walk_tb(error.__traceback__):
                for value in frame.f_locals.values():
                    if isinstance(value, socket.socket):
                        value.close()
            raise

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self.welcome = properties
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if not self._connected.done():
            # aiomqtt would wait for an answer until its time is over.
            self._connected.set_exception(ClosedEarlyError("closed before the broker answered"))
            return
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        self._watch.on_message(topic, bytes(message.payload), retained=bool(message.retain))

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        super()._on_publish(client, userdata, mid, reason_code, properties)
        self._watch.on_published(mid, reason_code)

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        # aiomqtt adds the writer later, and by number: the socket may be closed by then and its number another's.
        def add() -> None:
            if self._writes_to is not None and client.socket() is self._writes_to:
                self._loop.add_writer(sock.fileno(), write)

        def write() -> None:
            try:
                client.loop_write()
            except Exception as error:
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)

        self._writes_to = sock
        self._loop.call_soon_threadsafe(add)

    def _on_socket_unregister_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        self._writes_to = None
        super()._on_socket_unregister_write(client, userdata, sock)
        self._watch.on_room()


def _socket_options(unsent: int | None) -> list[tuple[int, int, int]]:
    # Bounds what the kernel holds and has not sent yet, not what is on its way: long round trips keep their rate.
    lowat = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    return [] if unsent is None or lowat is None else [(socket.IPPROTO_TCP, lowat, unsent)]
