"""The ground's end of the link: all senders of one station. No I/O, no clock."""

from collections import OrderedDict, deque
from collections.abc import Hashable

from shared.errors import CorruptDataError
from shared.link.config import LinkConfig
from shared.link.events import LayerReceived
from shared.link.packet import SplitPacket, encode_reset, split_packet
from shared.link.station_session import StationSession
from shared.link.statistics import StationStatistics

MOST_SESSIONS = 1024
MOST_BUFFERED_BYTES = 64 << 20
"""Bytes of unfinished blocks and layers, of all senders together."""

MOST_BUFFERED_BYTES_OF_ONE = 16 << 20
MOST_UNFINISHED_BLOCKS = 256
"""Of one sender."""

_RESETS_REMEMBERED = 256
_RESET_EVERY = 1.0


class Station:
    """Receives layers from any number of senders, and acknowledges what its owner has stored.

    A station keeps nothing that it could not lose: after a restart the senders' time-outs bring back what was not
    acknowledged. Memory is bounded whatever arrives; what exceeds the bounds is dropped and counted, least recently
    used first, and comes again when its sender hears nothing of it.

    Args:
        config: settings; of these the station uses ``packet_bytes``, and ``simplex`` to answer nobody.
        now: seconds; all times must come from one clock that does not run backwards.
    """

    def __init__(self, config: LinkConfig, *, now: float) -> None:
        self.config = config
        self._sessions: OrderedDict[int, StationSession] = OrderedDict()
        self._by_tag: dict[int, dict[int, StationSession]] = {}
        self._timers: dict[int, float] = {}
        self._events: deque[LayerReceived] = deque()
        self._buffered = 0
        self._past = StationStatistics()
        self._resets: deque[tuple[Hashable, bytes]] = deque()
        self._reset_times: OrderedDict[tuple[Hashable, int], float] = OrderedDict()
        self._now = now

    def receive_packet(self, data: bytes, now: float, path: Hashable = None) -> None:
        """Take a packet; whatever is not a sender's is dropped and counted.

        Args:
            data: the packet.
            now: seconds.
            path: where it came from; answers to its sender go there from now on.
        """
        self._now = now
        try:
            packet = split_packet(data)
            session = self._find(packet, now, path)
            if session is None:
                return
            symbol = packet.data()
        except CorruptDataError:
            self._past.packets_rejected += 1
            return
        session.path = path
        self._sessions.move_to_end(session.identity.sender)
        before = session.buffered_bytes
        try:
            session.receive(symbol, len(data), now)
        except CorruptDataError:
            session.statistics.packets_rejected += 1
        self._buffered += session.buffered_bytes - before
        self._bound(session)
        self._touch(session)

    def acknowledge(self, sender: int, sequence: int, layer: int, now: float) -> None:
        """Tell a sender that a layer is in durable storage; call it after it is, and for layers stored before.

        An acknowledgement for a sender that is not known any more is dropped: its layer will come again.
        """
        self._now = now
        session = self._sessions.get(sender)
        if session is None:
            return
        before = session.buffered_bytes
        session.acknowledge((sequence, layer), now)
        self._buffered += session.buffered_bytes - before
        self._touch(session)

    def packets_to_send(self, now: float) -> list[tuple[Hashable, bytes]]:
        """Pairs of a path and a packet to send there."""
        self._now = now
        packets: list[tuple[Hashable, bytes]] = []
        for sender in [sender for sender, at in self._timers.items() if at <= now]:
            session = self._sessions[sender]
            packets += ((session.path, packet) for packet in session.reports(now, self.config.packet_bytes))
            self._touch(session)
        if not self.config.simplex:
            packets += self._resets
        self._resets.clear()
        return packets

    def next_timer(self) -> float | None:
        """Seconds at which to call `handle_timer` and `packets_to_send` again; None if only packets bring work."""
        if self._resets:
            return self._now
        return min(self._timers.values(), default=None)

    def handle_timer(self, now: float) -> None:
        """Let time pass. All that time brings at a station is reports, and `packets_to_send` makes those."""
        self._now = now

    def next_event(self) -> LayerReceived | None:
        """The next layer received, None if there is none."""
        return self._events.popleft() if self._events else None

    @property
    def senders(self) -> list[int]:
        """Ids of the senders known now."""
        return sorted(self._sessions)

    def statistics(self, sender: int) -> StationStatistics:
        """Counters of a sender's present session; all zero for an unknown one."""
        session = self._sessions.get(sender)
        return StationStatistics() if session is None else session.statistics

    @property
    def totals(self) -> StationStatistics:
        """Counters over all senders, past sessions and packets of nobody included."""
        totals = StationStatistics()
        totals.add(self._past)
        for session in self._sessions.values():
            totals.add(session.statistics)
        return totals

    def _find(self, packet: SplitPacket, now: float, path: Hashable) -> StationSession | None:
        """The session of a packet, made if need be; None if the packet is of none."""
        if packet.control:
            raise CorruptDataError("a station takes no control packets")
        if packet.identity is None:
            tag = packet.tag or 0
            for session in self._by_tag.get(tag, {}).values():
                if packet.belongs_to(session.seed):
                    return session
            # It may be damaged as well as unknown; nothing can tell.
            self._past.packets_unknown += 1
            self._ask_who(tag, now, path)
            return None
        identity = packet.identity
        seed = identity.checksum_seed
        if not packet.belongs_to(seed):
            raise CorruptDataError("a packet is damaged")
        known = self._sessions.get(identity.sender)
        if known is not None:
            if known.identity == identity:
                return known
            if not identity.is_newer_than(known.identity):
                self._past.packets_stale += 1
                return None
            self._drop(known)
        session = StationSession(identity, seed, self._events)
        self._sessions[identity.sender] = session
        self._by_tag.setdefault(identity.tag, {})[identity.sender] = session
        if len(self._sessions) > MOST_SESSIONS:
            self._drop(next(iter(self._sessions.values())))
            self._past.sessions_dropped += 1
        return session

    def _drop(self, session: StationSession) -> None:
        sender = session.identity.sender
        session.statistics.blocks_dropped += session.unfinished_blocks
        self._past.add(session.statistics)
        self._buffered -= session.buffered_bytes
        self._timers.pop(sender, None)
        del self._sessions[sender]
        same_tag = self._by_tag[session.identity.tag]
        del same_tag[sender]
        if not same_tag:
            del self._by_tag[session.identity.tag]

    def _bound(self, session: StationSession) -> None:
        """Keep unfinished work within bounds: first this sender's, then that of whoever was silent longest."""
        while session.buffered_bytes > MOST_BUFFERED_BYTES_OF_ONE or session.unfinished_blocks > MOST_UNFINISHED_BLOCKS:
            self._shrink(session)
        while self._buffered > MOST_BUFFERED_BYTES:
            self._shrink(next(other for other in self._sessions.values() if other.buffered_bytes))

    def _shrink(self, session: StationSession) -> None:
        before = session.buffered_bytes
        session.shrink()
        self._buffered += session.buffered_bytes - before

    def _touch(self, session: StationSession) -> None:
        at = session.next_timer()
        if at is None or self.config.simplex:
            self._timers.pop(session.identity.sender, None)
        else:
            self._timers[session.identity.sender] = at

    def _ask_who(self, tag: int, now: float, path: Hashable) -> None:
        """Answer a short header of nobody, seldom enough that nobody can be flooded by it."""
        key = (path, tag)
        if now - self._reset_times.get(key, -_RESET_EVERY) < _RESET_EVERY:
            return
        self._reset_times[key] = now
        self._reset_times.move_to_end(key)
        if len(self._reset_times) > _RESETS_REMEMBERED:
            self._reset_times.popitem(last=False)
        if len(self._resets) < _RESETS_REMEMBERED:
            self._resets.append((path, encode_reset(tag)))
