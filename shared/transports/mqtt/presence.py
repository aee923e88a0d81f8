"""Who is there: birth and death messages at an MQTT broker, after the birth counter of Sparkplug B 3.0 (section 6.4).

At each connection an end leaves the broker a *will*, which the broker publishes when the connection breaks, and
publishes its *birth* itself; before it closes it publishes its *death* in person. All are retained, so a station that
comes later knows at once. The counter grows by one at each connection and stands in birth and will alike: a death
that is late, of a connection that has long had a successor, has a lower counter than the birth and is ignored.

Two things differ from Sparkplug. Counters there are kept on disk and wrap at 256; here a random *incarnation*, drawn
when a process opens the transport, stands beside the counter, so nothing need be stored and a restarted end is never
taken for an older one. And birth and death have a topic each: on one retained topic a late death would overwrite the
birth of a living end for everybody who comes later. An end is alive unless its death is of the same incarnation and of
the same or a later connection than its birth, in whichever order the two arrive.

Payload: a msgpack array [incarnation u32, counter u32, state], and for stations of a group two more,
[..., group name, shards as a bit set].
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import msgpack

from shared.errors import CorruptDataError
from shared.link.keys import Role
from shared.transports.mqtt.topics import SHARDS, StateTopic

_LARGEST = 2**32 - 1
LONGEST_GROUP = 64
_LONGEST_PAYLOAD = 128


class State(IntEnum):
    """What a presence message says: the connection broke, was closed, or stands."""

    LOST = 0
    CLOSED = 1
    ALIVE = 2


class Presence(NamedTuple):
    """One presence message.

    Attributes:
        incarnation: drawn at random when the transport was opened, u32.
        counter: counts connections of this incarnation from 1, u32.
        state: what happened.
        group: the group of stations that it belongs to, or "".
        shards: bit i says that it is willing to take shard i; 0 outside groups.
    """

    incarnation: int
    counter: int
    state: State
    group: str = ""
    shards: int = 0

    def ends(self, birth: "Presence") -> bool:
        """Whether this death is that of ``birth``, not of an older connection."""
        return self.incarnation == birth.incarnation and self.counter >= birth.counter

    def precedes(self, other: "Presence") -> bool:
        """Whether ``other`` is of a later connection of the same incarnation."""
        return self.incarnation == other.incarnation and self.counter < other.counter


def encode_presence(presence: Presence) -> bytes:
    """The message's payload; between incarnations nothing is ordered."""
    fields: list[int | str] = [presence.incarnation, presence.counter, int(presence.state)]
    if presence.group:
        fields += [presence.group, presence.shards]
    packed: bytes = msgpack.packb(fields)
    return packed


def parse_presence(payload: bytes) -> Presence:
    """Read a payload.

    Raises:
        CorruptDataError: if it is anything else.
    """
    wrong = CorruptDataError("a presence message is damaged or foreign")
    if len(payload) > _LONGEST_PAYLOAD:
        raise wrong
    try:
        fields = msgpack.unpackb(
            payload, max_array_len=5, max_str_len=4 * LONGEST_GROUP, max_bin_len=0, max_map_len=0, max_ext_len=0
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise wrong from error
    if not isinstance(fields, list) or len(fields) not in (3, 5):
        raise wrong
    # bool is an int to Python but not on the wire.
    if any(type(field) is not int or not 0 <= field <= _LARGEST for field in fields[:3]) or fields[2] > State.ALIVE:
        raise wrong
    if len(fields) == 3:
        return Presence(fields[0], fields[1], State(fields[2]))
    group, shards = fields[3:]
    if not is_group_name(group) or type(shards) is not int or not 0 < shards < 1 << SHARDS:
        raise wrong
    return Presence(fields[0], fields[1], State(fields[2]), group, shards)


def is_group_name(name: object) -> bool:
    """Whether a group of stations may be called that: MQTT forbids / + # (section 4.8.2), we what cannot be printed."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= LONGEST_GROUP
        and name.isascii()
        and name.isprintable()
        and not any(sign in name for sign in "/+# ")
    )


@dataclass
class _Known:
    birth: Presence | None = None
    death: Presence | None = None

    @property
    def now(self) -> Presence | None:
        if self.birth is None or (self.death is not None and self.death.ends(self.birth)):
            return self.death
        return self.birth


class PresenceTable:
    """What is known of everybody, bounded: the dead that changed longest ago go first, then the living.

    Args:
        limit: entries at most.
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._known: OrderedDict[tuple[Role, int], _Known] = OrderedDict()
        self.forgotten = 0
        """Entries dropped to make room."""

    def __len__(self) -> int:
        return len(self._known)

    def take(self, topic: StateTopic, payload: bytes) -> None:
        """Note a message; an empty payload, which clears a retained one at the broker, forgets what it said.

        Raises:
            CorruptDataError: if the payload is none, or says the opposite of its topic.
        """
        key = (topic.role, topic.identity)
        if not payload:
            known = self._known.get(key, _Known())
            known.birth, known.death = (None, known.death) if topic.birth else (known.birth, None)
            if known.birth is known.death is None:
                self._known.pop(key, None)
            return
        presence = parse_presence(payload)
        if (presence.state is State.ALIVE) != topic.birth:
            raise CorruptDataError("a presence message says the opposite of its topic")
        known = self._known.setdefault(key, _Known())
        self._known.move_to_end(key)
        before = known.birth if topic.birth else known.death
        if before is None or not presence.precedes(before):
            if topic.birth:
                known.birth = presence
            # A death of another incarnation than the living one's is an old one, and must not hide the right one.
            elif known.birth is None or known.death is None or presence.incarnation == known.birth.incarnation:
                known.death = presence
        self._make_room()

    def of(self, role: Role) -> Mapping[int, Presence]:
        """The last valid word about each end of a role, by id; alive if its state says so."""
        return {
            identity: now
            for (its_role, identity), known in self._known.items()
            if its_role is role and (now := known.now) is not None
        }

    def _make_room(self) -> None:
        while len(self._known) > self._limit:
            dead = (key for key, known in self._known.items() if known.now is known.death)
            self._known.pop(next(dead, next(iter(self._known))))
            self.forgotten += 1
