"""Topics of the link at an MQTT broker, and how they are read back from what a stranger may have sent.

Under a prefix, ``pinhole`` unless the address names another:

* ``v2/up/<shard>/<sender>/<layer>``: a sender's packets, ``base`` or ``refinement``, so that access lists and other
  readers can tell them apart without opening them;
* ``v2/down/<sender>``: what stations answer;
* ``v2/state/<role>/<id>/<birth or death>``: presence, see `shared.transports.mqtt.presence`.

Ids are eight lower-case hexadecimal digits. The shard, 0 to 15, follows from the sender's id, so all packets of a
sender have the same one: stations that share the work divide shards, never a sender (see
`shared.transports.mqtt.shards`).
"""

import zlib
from dataclasses import dataclass
from typing import NamedTuple

from shared.errors import CorruptDataError, UsageError
from shared.link.keys import Role

SHARDS = 16
DEFAULT_PREFIX = "pinhole"
_VERSION = "v2"
_LAYERS = ("base", "refinement")
_LONGEST_PREFIX = 128
_HEX_DIGITS = frozenset("0123456789abcdef")
_BIRTH, _DEATH = "birth", "death"


class UpTopic(NamedTuple):
    """Where a packet of a sender came in: the sender's id and the packet's priority (0 base, 1 refinement)."""

    sender: int
    priority: int


class StateTopic(NamedTuple):
    """Whose presence a message tells, and whether it was its owner (birth) or its will (death)."""

    role: Role
    identity: int
    birth: bool


def shard_of(sender: int) -> int:
    """The shard of a sender's topics, 0 to 15: the top four bits of the CRC-32 (zlib) of its id, u32 big-endian."""
    return zlib.crc32(sender.to_bytes(4, "big")) >> 28


@dataclass(frozen=True)
class Topics:
    """All topics under one prefix.

    Attributes:
        prefix: one or more levels, ``a/b``.

    Raises:
        UsageError: if MQTT allows no such prefix (version 5, section 4.7).
    """

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        levels = self.prefix.split("/")
        if (
            not all(levels)
            or self.prefix.startswith("$")
            or len(self.prefix.encode("utf-8", "replace")) > _LONGEST_PREFIX
            or not self.prefix.isprintable()
            or any(sign in self.prefix for sign in "+#")
        ):
            raise UsageError(
                f"{self.prefix!r} is no prefix of MQTT topics: write it after the port as /name or /name/name, "
                f"without + # $, at most {_LONGEST_PREFIX} bytes"
            )

    @property
    def _root(self) -> str:
        return f"{self.prefix}/{_VERSION}/"

    def up(self, sender: int, priority: int) -> str:
        """Where a sender publishes packets of a priority; everything above 0 is a refinement."""
        return f"{self._root}up/{shard_of(sender)}/{sender:08x}/{_LAYERS[min(priority, 1)]}"

    def up_filter(self, shard: int | None, group: str | None = None) -> str:
        """The subscription for a shard's packets, None for all; with ``group`` a shared one (MQTT 5, section 4.8.2)."""
        shared = f"$share/{group}/" if group else ""
        return f"{shared}{self._root}up/{'+' if shard is None else shard}/+/+"

    def down(self, sender: int) -> str:
        """Where stations answer a sender."""
        return f"{self._root}down/{sender:08x}"

    def state(self, role: Role, identity: int, *, birth: bool) -> str:
        """Where the presence of an end is told."""
        return f"{self._root}state/{role}/{identity:08x}/{_BIRTH if birth else _DEATH}"

    def state_filter(self, role: Role) -> str:
        """The subscription for the presence of all ends of a role."""
        return f"{self._root}state/{role}/+/+"

    def parse(self, topic: str) -> UpTopic | StateTopic:
        """Read a topic that a station got a message on.

        Raises:
            CorruptDataError: if it is none of those that stations subscribe to, letter by letter.
        """
        levels = topic.removeprefix(self._root).split("/") if topic.startswith(self._root) else []
        match levels:
            case ["up", shard, identity, layer] if layer in _LAYERS:
                sender = _parse_identity(identity)
                # Another shard would bring one sender's packets to two stations.
                if shard == str(shard_of(sender)):
                    return UpTopic(sender, _LAYERS.index(layer))
            case ["state", role, identity, leaf] if role in (*Role,) and leaf in (_BIRTH, _DEATH):
                return StateTopic(Role(role), _parse_identity(identity), leaf == _BIRTH)
        raise CorruptDataError("a message came on a topic that is none of the link's")


def _parse_identity(text: str) -> int:
    if len(text) != 8 or not _HEX_DIGITS.issuperset(text):
        raise CorruptDataError("a topic holds something else than eight hexadecimal digits for an id")
    return int(text, 16)
