"""How stations of a group divide the senders among themselves, and take over when one of them goes.

A broker hands each message of a shared subscription to any one of its members. With everybody subscribed to
everything, a sender's packets would be dealt out like cards: no station would ever hold a whole block. So the topics
carry a shard that follows from the sender's id, and for each shard exactly one station is subscribed at a time. Which
one needs no talking: every station knows from the presence messages who is alive and willing, and takes for each shard
the one with the highest hash of shard and station (rendezvous hashing: Thaler and Ravishankar, "Using name-based
mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998). So shards of a station that dies are
spread over the others, no other shard moves, and it gets the same ones back when it returns.

Stations of a group ask for a session that ends with the connection. So the broker removes their subscriptions in the
same breath in which it publishes their will; there is no time in which a dead station still draws packets, as it would
from a kept session. While shards change hands, for about one round trip, two stations may be subscribed, or none: then
a packet goes to one of them only, which is what the shared subscription is for, or to nobody. Either is a loss like any
other to the link, which asks for it again.
"""

import hashlib
from collections.abc import Mapping

from shared.link.keys import Role
from shared.transports.mqtt.presence import PresenceTable, State
from shared.transports.mqtt.topics import SHARDS

ALL_SHARDS = (1 << SHARDS) - 1


def owner(shard: int, willing: Mapping[int, int]) -> int | None:
    """The station that takes a shard.

    Args:
        shard: 0 to 15.
        willing: by id of each living station of the group, the shards that it would take, as a bit set.
    """
    takers = [station for station, shards in willing.items() if shards >> shard & 1]
    return max(takers, key=lambda station: (_weight(shard, station), station), default=None)


def own_shards(station: int, group: str, shards: int, presence: PresenceTable) -> frozenset[int]:
    """The shards that a station has to take now, itself counted as alive."""
    willing = {
        other: word.shards
        for other, word in presence.of(Role.STATION).items()
        if word.state is State.ALIVE and word.group == group
    }
    willing[station] = shards
    return frozenset(shard for shard in range(SHARDS) if owner(shard, willing) == station)


def _weight(shard: int, station: int) -> bytes:
    return hashlib.blake2s(bytes([shard]) + station.to_bytes(4, "big"), digest_size=8).digest()
