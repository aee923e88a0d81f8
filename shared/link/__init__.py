"""The link core: packets, forward error correction, sessions and the station. No I/O, no clock, no threads."""

from shared.link.config import LinkConfig
from shared.link.events import (
    LayerAcknowledged,
    LayerReceived,
    LayerSent,
    NumberTaken,
    PacketRefused,
    SenderEvent,
)
from shared.link.packet import OutgoingPacket
from shared.link.sender_session import SenderSession
from shared.link.station import Station
from shared.link.statistics import SenderStatistics, StationStatistics

__all__ = [
    "LayerAcknowledged",
    "LayerReceived",
    "LayerSent",
    "LinkConfig",
    "NumberTaken",
    "OutgoingPacket",
    "PacketRefused",
    "SenderEvent",
    "SenderSession",
    "SenderStatistics",
    "Station",
    "StationStatistics",
]
