"""Keeps an end connected to its broker, for ever: presence, back-off, and what is on its way and not yet acknowledged.

A connection is *up* when the broker has taken the subscriptions and the birth message. What was published with QoS 1
and not acknowledged when a connection broke is published again on the next one, unless it has grown too old; the link
knows duplicates. Between attempts the wait doubles from 1 s to a minute, less a random part so that a thousand senders
do not return to a restarted broker at once.

*Two ends with one id* would push each other out for ever, for a broker closes the older connection of a client id. Not
every broker says that this was the reason. But birth messages are retained: an end that returns first reads its own,
and if another incarnation has written it since, it has a rival, leaves again without a birth of its own, and waits
10 s, doubling to an hour, while the rival returns within a second, finds its own birth and stays. If the birth is the
same at the next look, the rival is gone (or was an old message that a broker got back from its disk): the end stays.
"""

import asyncio
import contextlib
import math
import random
import secrets
import ssl
import time
from collections.abc import Sequence

import aiomqtt
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from shared.errors import CorruptDataError, PinholeError
from shared.link.keys import Role
from shared.transports.mqtt.broker import Broker
from shared.transports.mqtt.endpoint import EndPoint, Filters, Listener, Message, MqttCounts
from shared.transports.mqtt.presence import Presence, State, encode_presence, parse_presence
from shared.transports.mqtt.reasons import (
    FAILURE,
    NO_MATCHING_SUBSCRIBERS,
    Reason,
    RefusedError,
    TakenOverError,
    reason_of,
    refusal,
    tls_context,
)

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_FIRST_WAIT_TAKEN, _LONGEST_WAIT_TAKEN = 10.0, 3600.0
_OPENING = 10.0
"""Seconds for which opening waits to learn whether the first connection works."""

_FAREWELL = 1.0
"""Seconds for each of: what is on its way, the death message, the closing."""

_OVERHEAD = 256
"""Bytes of a message beside the packet."""


class Connection:
    """See the module; `open` it before use.

    Args:
        end: which end this is.
        listener: is told what arrives.
    """

    def __init__(self, end: EndPoint, listener: Listener) -> None:
        self.end = end
        self.counts = MqttCounts()
        self.incarnation = secrets.randbits(32)
        self.counter = 0
        self._listener = listener
        self._tls: ssl.SSLContext | None = None
        self._broker: Broker | None = None
        self._attempt: Broker | None = None
        self._up = False
        self._up_since = math.inf
        self._window: dict[int, Message] = {}
        self._window_bytes = 0
        self._unwritten = 0
        self._again: list[Message] = []
        self._aliases: set[int] = set()
        self._changed = asyncio.Event()
        self._closing = False
        self._stop = asyncio.Event()
        self._first: asyncio.Future[Reason | None] = asyncio.get_running_loop().create_future()
        self._opening = True
        self._task: asyncio.Task[None] | None = None
        self._reported: set[str] = set()
        self._own_birth = end.settings.topics.state(end.role, end.identity, birth=True)
        self._rival: Presence | None = None
        self._foreign_birth: Presence | None = None
        self.lacking = False
        """Whether there is no connection, since one broke or an attempt failed."""

    async def open(self) -> None:
        """Connect, in the background if that takes long or the broker is away.

        Raises:
            PinholeError: if the first attempt failed for a reason that trying again does not mend.
        """
        self._tls = await asyncio.to_thread(tls_context, self.end.address, self.end.tls)
        self._task = asyncio.create_task(self._keep_connected())
        self._task.add_done_callback(self._ended)
        reason = None
        try:
            async with asyncio.timeout(_OPENING):
                reason = await asyncio.shield(self._first)
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            await self.close()
            raise
        self._opening = False
        if reason is not None and reason.lasting:
            await self.close()
            raise PinholeError(f"{self.end.address.url}: {reason.text}")

    async def wait_for_room(self, size: int, qos: int) -> None:
        """Wait until the connection is up, what was handed over is written, and the window has room.

        Raises:
            ConnectionError: if the transport is closed.
        """
        while not self.has_room(size, qos):
            if self._closing or self._task is None or self._task.done():
                raise ConnectionError(f"{self.end.address.url}: the transport is closed")
            self._changed.clear()
            await self._changed.wait()

    def has_room(self, size: int, qos: int) -> bool:
        """Whether a message could be handed over at once."""
        broker = self._broker
        if broker is None or not self._up or self._closing:
            return False
        if not broker.idle and self._unwritten + size > self.end.backlog:
            return False
        if qos == 0 or not self._window:
            return True
        most = min(broker.limit("ReceiveMaximum", 65535), self.end.settings.receive_maximum)
        return len(self._window) < most and self._window_bytes + size <= self.end.window

    def publish(self, topic: str, payload: bytes, *, qos: int, lifetime: float | None, alias: int = 0) -> None:
        """Hand a message over; call it right after `has_room` or `wait_for_room`.

        Args:
            topic: where to.
            payload: the packet.
            qos: 0 or 1.
            lifetime: seconds for which it is worth anything, None for ever.
            alias: a number for this topic that the broker may learn, so that it need not be sent again; 0 for none.
        """
        message = Message(topic, payload, time.monotonic(), lifetime, alias)
        try:
            self._hand(message, qos)
        except aiomqtt.MqttError:
            # The connection is breaking; what must arrive goes out on the next one.
            if qos:
                self._again.append(message)

    async def subscribe(self, filters: Filters) -> None:
        """Subscribe to more, until the connection ends.

        Raises:
            RefusedError: if the broker refuses.
            aiomqtt.MqttError: if the connection breaks.
        """
        if self._broker is not None:
            await self._broker.join(filters)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Take subscriptions back.

        Raises:
            aiomqtt.MqttError: if the connection breaks.
        """
        if self._broker is not None:
            await self._broker.leave(filters)

    def report_once(self, line: str) -> None:
        """Report a line that was not reported since the connection last came up."""
        if line not in self._reported:
            self._reported.add(line)
            self.end.report(f"{self.end.address.url}: {line}")

    async def close(self, linger: float = _FAREWELL) -> None:
        """Tell the death and close; a second call does nothing.

        Args:
            linger: seconds for which what is on its way may still leave.
        """
        if self._closing:
            return
        self._closing = True
        try:
            if self._up and self._broker is not None:
                with contextlib.suppress(TimeoutError, aiomqtt.MqttError):
                    async with asyncio.timeout(linger):
                        await self._broker.unless_gone(self._drained())
        finally:
            self._stop.set()
            self._changed.set()
            if self._attempt is not None:
                self._attempt.give_up()
            if self._task is not None:
                # Connecting happens in a thread, which nothing can stop before its time is over.
                await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.report_once(f"the transport gives up ({task.exception()!r})")
        self._changed.set()
        self._listener.on_end()

    # What the broker tells; see `shared.transports.mqtt.broker.BrokerWatch`.

    def on_message(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """A message came in."""
        if topic == self._own_birth:
            with contextlib.suppress(CorruptDataError):
                birth = parse_presence(payload)
                self._foreign_birth = None if birth.incarnation == self.incarnation else birth
            if self.end.role is Role.SENDER:
                return
        self._listener.on_message(topic, payload, retained=retained)

    def on_published(self, number: int, reason: ReasonCode) -> None:
        """A message of QoS 1 was acknowledged."""
        message = self._window.pop(number, None)
        if message is None:
            return
        self._window_bytes -= len(message.payload)
        self._changed.set()
        if message.answer is not None:
            if not message.answer.done():
                message.answer.set_result(reason)
        elif reason.value >= FAILURE:
            self.counts.refused += 1
            self.report_once(refusal(f"messages to {message.topic}", reason))
        elif reason.value == NO_MATCHING_SUBSCRIBERS:
            self.counts.unheard += 1

    def on_room(self) -> None:
        """All that was handed over is written."""
        self._unwritten = 0
        self._changed.set()

    # The life of connections.

    async def _keep_connected(self) -> None:
        failures = takeovers = 0
        while not self._stop.is_set():
            reason = await self._one_connection()
            if self._stop.is_set():
                break
            stood = max(0.0, time.monotonic() - self._up_since)
            self.lacking = True
            failures = 0 if stood > _LONGEST_WAIT else failures + 1
            wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(max(failures - 1, 0), 16))
            takeovers = takeovers + 1 if reason.taken_over else 0 if stood > 0.0 else takeovers
            if reason.taken_over:
                self.counts.taken_over += 1
                wait = min(_LONGEST_WAIT_TAKEN, _FIRST_WAIT_TAKEN * 2.0 ** min(takeovers - 1, 16))
            if not (self._opening and reason.lasting):
                self.report_once(f"{reason.text}; trying again, for ever")
            if not self._first.done():
                self._first.set_result(reason)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait * random.uniform(0.5, 1.0)):
                    await self._stop.wait()

    async def _one_connection(self) -> Reason:
        self.counter += 1
        self._up_since = math.inf
        broker = self._make_broker()
        error: BaseException
        orderly = False
        try:
            self._attempt = broker
            await broker.__aenter__()
            self._broker = broker
            if not self._stop.is_set():
                await self._come_up(broker)
            await broker.until_gone_or(self._stop)
            if self._up and broker.gone_because() is None:
                async with asyncio.timeout(_FAREWELL):
                    await self._tell(broker, State.CLOSED)
            orderly = True
            error = broker.gone_because() or aiomqtt.MqttError("closed")
        except TakenOverError as failure:
            orderly, error = True, failure
        except (aiomqtt.MqttError, RefusedError, OSError) as failure:
            error = failure
        finally:
            self._go_down()
            self._attempt = None
            await broker.disconnect(_FAREWELL, orderly=orderly)
        return reason_of(error, self.end.address, detail=broker.detail)

    def _make_broker(self) -> Broker:
        end = self.end
        will = aiomqtt.Will(*self._presence(State.LOST), qos=1, retain=True)
        return Broker(
            end.address.host,
            end.address.port,
            watch=self,
            unsent=end.unsent,
            timeout=end.settings.timeout,
            receive_maximum=end.settings.receive_maximum,
            session_expiry=end.session_expiry,
            identifier=end.client_id,
            username=end.settings.username,
            password=end.password,
            keepalive=end.settings.keepalive,
            clean_start=end.session_expiry == 0,
            tls_context=self._tls,
            will=will,
        )

    async def _come_up(self, broker: Broker) -> None:
        most, largest = broker.limit("MaximumPacketSize", 0), self.end.packet_bytes + _OVERHEAD
        if 0 < most < largest:
            raise RefusedError(f"the broker takes {most} bytes a message, {largest} are needed; allow them there")
        self._foreign_birth = None
        # Most brokers send what they retain with the answer to the subscription, so that of the first one is here when
        # the second one is answered.
        own_birth = SubscribeOptions(qos=1, noLocal=True)
        await asyncio.gather(broker.join([(self._own_birth, own_birth)]), broker.join(self.end.filters))
        self._yield_to_rival()
        # The birth comes after the subscription, so that its echo tells a station that it knows of all the others.
        await self._tell(broker, State.ALIVE)
        self._up, self._up_since, self.lacking = True, time.monotonic(), False
        self.counts.connections += 1
        self._reported.clear()
        if self.counts.connections > 1:
            self.report_once("connected again")
        while self._again:
            if not self._again[0].expired:
                self._hand(self._again[0], 1)
                self.counts.published_again += 1
            del self._again[0]
        if not self._first.done():
            self._first.set_result(None)
        self._changed.set()

    def _yield_to_rival(self) -> None:
        if self.counts.connections and self._foreign_birth not in (None, self._rival):
            self._rival = self._foreign_birth
            raise TakenOverError("another client with this id is there")

    def _go_down(self) -> None:
        self._broker, self._up = None, False
        self._again += [message for message in self._window.values() if message.answer is None]
        self._window.clear()
        self._window_bytes = self._unwritten = 0
        self._aliases.clear()

    def _hand(self, message: Message, qos: int) -> None:
        broker = self._broker
        if broker is None:
            raise aiomqtt.MqttError("not connected")
        alias = message.alias if message.alias <= broker.limit("TopicAliasMaximum", 0) else 0
        topic = "" if alias in self._aliases else message.topic
        retain = message.answer is not None
        number = broker.hand(topic, message.payload, qos=qos, retain=retain, expiry=message.expiry, alias=alias)
        self._unwritten += len(message.payload)
        if alias:
            self._aliases.add(alias)
        if qos:
            self._window[number] = message
            self._window_bytes += len(message.payload)

    def _presence(self, state: State) -> tuple[str, bytes]:
        end, settings = self.end, self.end.settings
        group, shards = (settings.group, settings.shards) if settings.group else ("", 0)
        topic = settings.topics.state(end.role, end.identity, birth=state is State.ALIVE)
        return topic, encode_presence(Presence(self.incarnation, self.counter, state, group, shards))

    async def _tell(self, broker: Broker, state: State) -> None:
        answer: asyncio.Future[ReasonCode] = asyncio.get_running_loop().create_future()
        topic, payload = self._presence(state)
        self._hand(Message(topic, payload, 0.0, None, 0, answer), 1)

        async def wait() -> ReasonCode:
            async with asyncio.timeout(self.end.settings.timeout):
                return await answer

        reason = await broker.unless_gone(wait())
        if reason.value >= FAILURE:
            raise RefusedError(refusal(f"messages to {topic}", reason))

    async def _drained(self) -> None:
        while self._window or (self._broker is not None and not self._broker.idle):
            self._changed.clear()
            await self._changed.wait()
