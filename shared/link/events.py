"""What the link tells its owner."""

from collections.abc import Hashable
from dataclasses import dataclass

from shared.link.envelope import Cause


@dataclass(frozen=True)
class LayerReceived:
    """At the station: a layer is whole. Once per layer and session.

    Attributes:
        sender: the sender's id, u32.
        sequence: the picture's number at that sender, u32.
        layer: 0 is the base.
        layers: how many layers the picture has, 1 to 16.
        payload: the bytes as they were submitted.
    """

    sender: int
    sequence: int
    layer: int
    layers: int
    payload: bytes


@dataclass(frozen=True)
class LayerAcknowledged:
    """At the sender: the station has the layer in durable storage."""

    sequence: int
    layer: int


@dataclass(frozen=True)
class LayerSent:
    """At a simplex sender: the last packet that carries a part of the layer has been handed out."""

    sequence: int
    layer: int


@dataclass(frozen=True)
class NumberTaken:
    """At the sender: the station has another picture under this number, and the session sends this one no more.

    Once for a picture that is outstanding, for all its layers that are; submit them under another number.

    Attributes:
        sequence: the picture's number.
        highest: largest number of a picture that the station has of this sender, at least ``sequence``, u32.
    """

    sequence: int
    highest: int


SenderEvent = LayerAcknowledged | LayerSent | NumberTaken


@dataclass(frozen=True)
class PacketRefused:
    """At the station: a packet was refused, the first for this cause since the station began.

    Attributes:
        cause: why.
        detail: one sentence.
        path: where it came from.
    """

    cause: Cause
    detail: str
    path: Hashable
