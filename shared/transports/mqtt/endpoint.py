"""What an MQTT connection is told of the end that uses it, and what it counts for it."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from shared.link.keys import Role
from shared.transports.address import Address
from shared.transports.mqtt.settings import MqttSettings
from shared.transports.options import Report, TlsOptions

Filters = Sequence[tuple[str, SubscribeOptions]]


@dataclass
class MqttCounts:
    """What happened on a transport since it was opened.

    Attributes:
        connections: that came up.
        taken_over: of them, ended by another client with the same id.
        refused: messages that the broker did not take, by its access list or for another reason.
        unheard: messages of QoS 1 for which nobody is subscribed.
        published_again: messages of QoS 1 repeated on a new connection.
        foreign: received on topics, or with payloads, that are not the link's.
        oversized: received, larger than any packet.
        retained: received on packet topics with the retain flag, that is, replays.
        overflowed: dropped because nobody fetched, or for answers, because the connection is down or full.
    """

    connections: int = 0
    taken_over: int = 0
    refused: int = 0
    unheard: int = 0
    published_again: int = 0
    foreign: int = 0
    oversized: int = 0
    retained: int = 0
    overflowed: int = 0


@dataclass(frozen=True)
class EndPoint:
    """Which end this is and what it shows the broker.

    Attributes:
        address: of the broker.
        settings: from the address.
        role: sender or station.
        identity: the end's id.
        tls: for ``mqtts://``.
        password: None for none.
        packet_bytes: largest packet that it publishes.
        backlog: bytes handed over and not written that do not count as a full connection yet.
        unsent: as for `Broker`.
        window: bytes published with QoS 1 and not acknowledged, at most; one message is always allowed.
        filters: what it subscribes to at each connection.
        report: takes lines for a person.
    """

    address: Address
    settings: MqttSettings
    role: Role
    identity: int
    tls: TlsOptions
    password: str | None
    packet_bytes: int
    backlog: int
    unsent: int | None
    window: int
    filters: Filters
    report: Report

    @property
    def client_id(self) -> str:
        """The MQTT client id."""
        return f"pinhole-{self.role}-{self.identity:08x}"

    @property
    def session_expiry(self) -> int:
        """Seconds; none for a station of a group, whose share must go to the others at once."""
        return 0 if self.settings.group else self.settings.session_expiry


class Listener(Protocol):
    """The transport that uses the connection."""

    def on_message(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """As for `shared.transports.mqtt.broker.BrokerWatch`."""

    def on_end(self) -> None:
        """The connection is closed and will not come back."""


class Message(NamedTuple):
    """On its way to the broker.

    Attributes:
        topic: where to.
        payload: packet or presence.
        born: when it was handed over, monotonic clock.
        lifetime: seconds, None for ever.
        alias: number for the topic, 0 for none.
        answer: gets the broker's reason code; for presence alone.
    """

    topic: str
    payload: bytes
    born: float
    lifetime: float | None
    alias: int
    answer: "asyncio.Future[ReasonCode] | None" = None

    @property
    def expiry(self) -> int | None:
        """Whole seconds that are left, at least one."""
        if self.lifetime is None:
            return None
        return max(1, math.ceil(self.born + self.lifetime - time.monotonic()))

    @property
    def expired(self) -> bool:
        """Whether it is worth nothing any more."""
        return self.lifetime is not None and time.monotonic() > self.born + self.lifetime
