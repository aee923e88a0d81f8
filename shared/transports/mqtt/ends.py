"""MQTT transport: senders and stations meet at a broker (MQTT version 5, OASIS standard of 2019), through aiomqtt.

Topics are described in `shared.transports.mqtt.topics`, presence in `presence`, sharing among stations in
`shards`, the address's options in `settings`, the life of a connection in `connection`.

What is done with care:

* Base layers go with QoS 1, refinements with QoS 0: the broker keeps the former for a station that is away for a
  moment, and the link repairs either. Answers have QoS 0: a late one is worth nothing.
* Nothing piles up at a sender. A packet is handed over only on a connection that is up and has written all before it.
  The kernel may hold four seconds' worth of the rate that it has not sent; unacknowledged packets of QoS 1 may be half
  a minute's worth, for a round trip can last 20 s, and no more than the receive maximum.
* At the broker packets expire after the sender's ``max_age``, answers after a minute.
* The topic of packets is sent once a connection and then replaced by a topic alias, three bytes for forty.
* A station trusts nothing: topics are compared letter by letter, packets with the retain flag are replays and dropped,
  and what is not fetched is bounded in bytes. The id in a topic is only where answers go.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

import aiomqtt
from paho.mqtt.subscribeoptions import SubscribeOptions

from shared.errors import CorruptDataError
from shared.link.keys import Role
from shared.transports.address import Address
from shared.transports.base import LARGEST_PACKET
from shared.transports.mqtt.connection import Connection
from shared.transports.mqtt.endpoint import EndPoint, Filters, MqttCounts
from shared.transports.mqtt.presence import Presence, PresenceTable
from shared.transports.mqtt.reasons import RefusedError, read_password, tls_context
from shared.transports.mqtt.settings import MqttSettings, parse_mqtt, read_settings
from shared.transports.mqtt.shards import ALL_SHARDS, own_shards
from shared.transports.mqtt.topics import SHARDS, StateTopic
from shared.transports.options import ClientOptions, StationOptions

_UNSENT_SECONDS = 4.0
_UNACKNOWLEDGED_SECONDS = 30.0
_UNACKNOWLEDGED_BYTES = 1 << 20
"""Without a rate."""

_ANSWER_LIFETIME = 60.0
_SHARE_AGAIN = 5.0
"""Seconds between two attempts to subscribe to a share on a connection that stands."""

_ANSWERS_UNWRITTEN = 1 << 18
_INBOX_BYTES_AT_SENDER, _INBOX_BYTES_AT_STATION = 1 << 20, 16 << 20
_INBOX_PER_PACKET = 128
"""Bytes that a packet in an inbox is counted for beside its own."""

_Item = TypeVar("_Item")


class _Inbox(Generic[_Item]):
    """What came in and was not fetched yet, bounded in bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._items: deque[tuple[_Item, int]] = deque()
        self._changed = asyncio.Event()
        self._ended = False

    def put(self, item: _Item, size: int) -> bool:
        """Add an item; False if there is no room."""
        size += _INBOX_PER_PACKET
        if self._bytes + size > self._most:
            return False
        self._bytes += size
        self._items.append((item, size))
        self._changed.set()
        return True

    async def get(self) -> _Item:
        """Wait for an item.

        Raises:
            ConnectionError: if nothing is left and nothing will come.
        """
        while not self._items:
            if self._ended:
                raise ConnectionError("the MQTT transport is closed")
            self._changed.clear()
            await self._changed.wait()
        item, size = self._items.popleft()
        self._bytes -= size
        return item

    def end(self) -> None:
        """Nothing will come any more."""
        self._ended = True
        self._changed.set()


class MqttClient:
    """A sender's way over a broker; open it with `open_mqtt_client`."""

    def __init__(self, end: EndPoint, max_age: float | None) -> None:
        self._connection = Connection(end, self)
        self._inbox: _Inbox[bytes] = _Inbox(_INBOX_BYTES_AT_SENDER)
        self._max_age = max_age
        self._down = end.settings.topics.down(end.identity)
        self._up = [end.settings.topics.up(end.identity, priority) for priority in (0, 1)]

    @property
    def counts(self) -> MqttCounts:
        """What happened since it was opened."""
        return self._connection.counts

    @property
    def lacks_connection(self) -> bool:
        """See `KeepsConnection`."""
        return self._connection.lacking

    async def open(self) -> None:
        """See `Connection.open`."""
        await self._connection.open()

    async def send(self, packet: bytes, priority: int = 0) -> None:
        """See `ClientTransport`; waits while the broker is away."""
        kind = min(max(priority, 0), 1)
        qos = self._connection.end.settings.qos[kind]
        await self._connection.wait_for_room(len(packet), qos)
        self._connection.publish(self._up[kind], packet, qos=qos, lifetime=self._max_age, alias=kind + 1)

    async def receive(self) -> bytes:
        """See `ClientTransport`."""
        return await self._inbox.get()

    async def close(self) -> None:
        """See `ClientTransport`."""
        await self._connection.close()

    def on_message(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """A message came from the broker."""
        if topic != self._down:
            self.counts.foreign += 1
        elif retained:
            self.counts.retained += 1
        elif len(payload) > LARGEST_PACKET:
            self.counts.oversized += 1
        elif not self._inbox.put(payload, len(payload)):
            self.counts.overflowed += 1

    def on_end(self) -> None:
        """The connection is closed."""
        self._inbox.end()


class MqttStation:
    """A station at a broker; open it with `open_mqtt_station`. A path is the id in the sender's topic."""

    def __init__(self, end: EndPoint) -> None:
        self.url = end.address.url
        self._connection = Connection(end, self)
        self._inbox: _Inbox[tuple[Hashable, bytes]] = _Inbox(_INBOX_BYTES_AT_STATION)
        self._topics = end.settings.topics
        self._presence = PresenceTable()
        self._presence_changed = asyncio.Event()
        self._sharing: asyncio.Task[None] | None = None
        self.shards: frozenset[int] = frozenset(i for i in range(SHARDS) if end.settings.shards >> i & 1)
        """Shards that the station is subscribed to; in a group they change."""

    @property
    def counts(self) -> MqttCounts:
        """What happened since it was opened."""
        return self._connection.counts

    def presence(self, role: Role = Role.SENDER) -> Mapping[int, Presence]:
        """The last word that the broker had about each sender, or station, by id; what it says may be forged."""
        return self._presence.of(role)

    async def open(self) -> None:
        """See `Connection.open`."""
        if self._connection.end.settings.group:
            self.shards = frozenset()
            self._sharing = asyncio.create_task(self._share())
        try:
            await self._connection.open()
        except BaseException:
            await self._stop_sharing()
            raise

    async def send(self, path: Hashable, packet: bytes) -> None:
        """See `StationTransport`; dropped as well while the broker is away or slow, for the answer would be late."""
        if not isinstance(path, int):
            return
        if self._connection.has_room(len(packet), 0):
            self._connection.publish(self._topics.down(path), packet, qos=0, lifetime=_ANSWER_LIFETIME)
        else:
            self.counts.overflowed += 1

    async def receive(self) -> tuple[Hashable, bytes]:
        """See `StationTransport`."""
        return await self._inbox.get()

    async def close(self) -> None:
        """See `StationTransport`."""
        await self._stop_sharing()
        await self._connection.close(linger=0.0)

    def on_message(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """A message came from the broker."""
        try:
            place = self._topics.parse(topic)
            if isinstance(place, StateTopic):
                self._presence.take(place, payload)
                self._presence_changed.set()
                return
        except CorruptDataError:
            self.counts.foreign += 1
            return
        if retained:
            self.counts.retained += 1
        elif len(payload) > LARGEST_PACKET:
            self.counts.oversized += 1
        elif not self._inbox.put((place.sender, payload), len(payload)):
            self.counts.overflowed += 1

    def on_end(self) -> None:
        """The connection is closed."""
        self._inbox.end()

    async def _share(self) -> None:
        """Keep subscribed to this station's share of its group's shards."""
        connection, end = self._connection, self._connection.end
        counter = 0
        perhaps: frozenset[int] = frozenset()  # what the broker may have, for it has not answered
        while True:
            await self._presence_changed.wait()
            self._presence_changed.clear()
            mine = self._presence.of(Role.STATION).get(end.identity)
            if mine is None or (mine.incarnation, mine.counter) != (connection.incarnation, connection.counter):
                # Until our own birth comes back, those of others may still be on their way.
                continue
            if counter != connection.counter:
                self.shards, perhaps, counter = frozenset(), frozenset(), connection.counter
            wanted = own_shards(end.identity, end.settings.group or "", end.settings.shards, self._presence)
            try:
                # Of a shard that another station has by now, the broker would deal it every other packet.
                unwanted = (self.shards | perhaps) - wanted
                await connection.unsubscribe([self._filter(shard) for shard in sorted(unwanted)])
                await connection.subscribe(
                    [(self._filter(shard), _packets()) for shard in sorted(wanted - self.shards)]
                )
                self.shards, perhaps = wanted, frozenset()
            except RefusedError as error:
                connection.report_once(str(error))
            except aiomqtt.MqttError:
                # Broken, and then the next connection's birth begins anew, or only too slow an answer.
                self.shards, perhaps = frozenset(), self.shards | perhaps | wanted
                await asyncio.sleep(_SHARE_AGAIN)
                self._presence_changed.set()

    def _filter(self, shard: int) -> str:
        return self._topics.up_filter(shard, self._connection.end.settings.group)

    async def _stop_sharing(self) -> None:
        if self._sharing is not None:
            self._sharing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sharing


async def open_mqtt_client(address: Address, options: ClientOptions) -> MqttClient:
    """Connect to a broker; if it is away or its host's name cannot be found, go on trying in the background.

    Args:
        address: from `parse_mqtt`.
        options: of the sender.

    Raises:
        PinholeError: if that cannot work before somebody mends something: options, password, certificates, the
            broker's access list.
    """
    settings = read_settings(address, station=False)
    per_second = None if options.rate is None else options.rate / 8.0
    least = 2 * options.packet_bytes
    end = EndPoint(
        address=address,
        settings=settings,
        role=Role.SENDER,
        identity=options.sender,
        tls=options.tls,
        password=read_password(address, options.password_file),
        packet_bytes=options.packet_bytes,
        backlog=0,
        unsent=None if per_second is None else max(least, int(_UNSENT_SECONDS * per_second)),
        window=max(least, _UNACKNOWLEDGED_BYTES if per_second is None else int(_UNACKNOWLEDGED_SECONDS * per_second)),
        filters=[
            (settings.topics.down(options.sender), SubscribeOptions(qos=0, retainAsPublished=True, retainHandling=2))
        ],
        report=options.report,
    )
    client = MqttClient(end, options.max_age)
    await client.open()
    return client


async def open_mqtt_station(address: Address, options: StationOptions) -> MqttStation:
    """Subscribe at a broker; arguments and errors as for `open_mqtt_client`."""
    settings = read_settings(address, station=True)
    end = EndPoint(
        address=address,
        settings=settings,
        role=Role.STATION,
        identity=options.station,
        tls=options.tls,
        password=read_password(address, options.password_file),
        packet_bytes=options.packet_bytes,
        backlog=_ANSWERS_UNWRITTEN,
        unsent=None,
        window=_UNACKNOWLEDGED_BYTES,
        filters=_station_filters(settings),
        report=options.report,
    )
    station = MqttStation(end)
    await station.open()
    return station


def check_mqtt(address: Address, options: ClientOptions | StationOptions) -> None:
    """Check an address together with the options of its transport, and the files that they name.

    Raises:
        UsageError: if an option is unknown at this end or has a wrong value.
        PinholeError: if a password or certificate cannot be used.
    """
    read_settings(address, station=isinstance(options, StationOptions))
    read_password(address, options.password_file)
    tls_context(address, options.tls)


def _station_filters(settings: MqttSettings) -> Filters:
    topics = settings.topics
    # Retained births may be thousands, and with QoS 1 a broker would only keep its first thousand for us.
    states = [
        (topics.state_filter(Role.STATION), SubscribeOptions(qos=1)),
        (topics.state_filter(Role.SENDER), SubscribeOptions(qos=0)),
    ]
    if settings.group:
        return states
    shards = [None] if settings.shards == ALL_SHARDS else [i for i in range(SHARDS) if settings.shards >> i & 1]
    return [*states, *((topics.up_filter(shard), _packets()) for shard in shards)]


def _packets() -> SubscribeOptions:
    # Retained packets are replays: none at subscription, and the flag stays on those that come later.
    return SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=2)


__all__ = ["MqttClient", "MqttCounts", "MqttStation", "open_mqtt_client", "open_mqtt_station", "parse_mqtt"]
