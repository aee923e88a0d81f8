"""The ground's end of the link: all senders of one station. No I/O, no clock."""

from collections import OrderedDict, deque
from collections.abc import Hashable

from shared.errors import CorruptDataError
from shared.link.config import LinkConfig
from shared.link.envelope import Admitted, Cause, Gate, RefusedError
from shared.link.events import LayerReceived, PacketRefused
from shared.link.gilbert import GilbertFit
from shared.link.packet import encode_reset, encode_versions, wants_versions
from shared.link.plain import PlainGate
from shared.link.station_session import StationSession
from shared.link.statistics import StationStatistics

MOST_SESSIONS = 1024
MOST_BUFFERED_BYTES = 64 << 20
"""Bytes of unfinished blocks and layers, of all senders together."""

MOST_BUFFERED_BYTES_OF_ONE = 16 << 20
MOST_UNFINISHED_BLOCKS = 256
"""Of one sender."""

_ANSWERS_REMEMBERED = 256
_ANSWER_EVERY = 1.0
"""Seconds between two answers to strangers on one path."""


class Station:
    """Receives layers from any number of senders, and acknowledges what its owner has stored.

    A station keeps nothing that it could not lose: after a restart the senders' time-outs bring back what was not
    acknowledged. Memory is bounded whatever arrives; what exceeds the bounds is dropped and counted, least recently
    used first, and comes again when its sender hears nothing of it.

    Args:
        config: settings; of these the station uses ``packet_bytes``, and ``simplex`` to answer nobody.
        now: seconds; all times must come from one clock that does not run backwards.
        gate: decides which packets are taken; None takes unsealed ones of anybody.
    """

    def __init__(self, config: LinkConfig, *, now: float, gate: Gate | None = None) -> None:
        self.config = config
        self._gate = PlainGate() if gate is None else gate
        self._sessions: OrderedDict[int, StationSession] = OrderedDict()
        self._timers: dict[int, float] = {}
        self._events: deque[LayerReceived] = deque()
        self._buffered = 0
        self._past = StationStatistics()
        self._answers: deque[tuple[Hashable, bytes]] = deque()
        self._answer_times: OrderedDict[tuple[Hashable, int], float] = OrderedDict()
        self._refusals: deque[PacketRefused] = deque()
        self._causes_told: set[Cause] = set()
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
            admitted = self._gate.admit(data)
        except RefusedError as error:
            self._refuse(error, data, now, path)
            return
        if admitted is None:
            return
        session = self._session(admitted)
        if admitted.incoming is None:
            # It may be a recording of an old hello, so it does not say where the sender is now.
            session.greet()
            return
        session.path = path
        self._sessions.move_to_end(session.sender)
        before = session.buffered_bytes
        try:
            session.receive(admitted.incoming, len(data), now)
        except CorruptDataError:
            session.statistics.packets_rejected += 1
        self._buffered += session.buffered_bytes - before
        self._bound(session)
        self._touch(session)

    def acknowledge(self, sender: int, sequence: int, layer: int, now: float, payload_hash: int | None = None) -> None:
        """Tell a sender that a layer is in durable storage; call it after it is, and for layers stored before.

        An acknowledgement for a sender that is not known any more is dropped: its layer will come again. So is one of
        other bytes than the present session handed over, where ``payload_hash``, the ``hash`` of those stored, tells:
        the layer may have waited since an earlier session, and a spool restored meanwhile has another picture under
        its number.
        """
        self._now = now
        session = self._sessions.get(sender)
        if session is None:
            return
        before = session.buffered_bytes
        session.acknowledge((sequence, layer), now, payload_hash)
        self._buffered += session.buffered_bytes - before
        self._touch(session)

    def refuse(self, sender: int, sequence: int, layer: int, highest: int, now: float) -> None:
        """Tell a sender that another picture has a number of its own: it must go on with that picture under a new one.

        Call it where other bytes are stored under a layer's number. Reports say that the number is taken until the
        sender has understood. No further layer of that picture is handed over, however long this session lasts: what
        the sender has under that number does not belong to what is stored.

        Args:
            sender: id of the sender; nothing happens if it is not known any more, for the layer will come again.
            sequence: the picture's number.
            layer: 0 is the base.
            highest: largest number of a picture stored of this sender, u32; the sender's new ones begin above it.
            now: seconds.
        """
        self._now = now
        session = self._sessions.get(sender)
        if session is None:
            return
        before = session.buffered_bytes
        session.refuse((sequence, layer), highest, now)
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
            packets += self._answers
        self._answers.clear()
        return packets

    def next_timer(self) -> float | None:
        """Seconds at which to call `handle_timer` and `packets_to_send` again; None if only packets bring work."""
        if self._answers:
            return self._now
        return min(self._timers.values(), default=None)

    def handle_timer(self, now: float) -> None:
        """Let time pass. All that time brings at a station is reports, and `packets_to_send` makes those."""
        self._now = now

    def next_event(self) -> LayerReceived | None:
        """The next layer received, None if there is none."""
        return self._events.popleft() if self._events else None

    def next_refusal(self) -> PacketRefused | None:
        """The first packet that was refused for a cause, once for each cause; None if there is nothing to tell."""
        return self._refusals.popleft() if self._refusals else None

    def forget(self, sender: int) -> None:
        """Give up what is known of a sender, because its key was revoked."""
        session = self._sessions.get(sender)
        if session is not None:
            self._drop(session)

    @property
    def senders(self) -> list[int]:
        """Ids of the senders known now."""
        return sorted(self._sessions)

    def statistics(self, sender: int) -> StationStatistics:
        """Counters of a sender's present session; all zero for an unknown one."""
        session = self._sessions.get(sender)
        return StationStatistics() if session is None else session.statistics

    def channel(self, sender: int, now: float) -> GilbertFit | None:
        """What the way from a sender does to packets, None while too few have come to tell."""
        session = self._sessions.get(sender)
        return None if session is None else session.channel(now)

    @property
    def totals(self) -> StationStatistics:
        """Counters over all senders, past sessions and packets of nobody included."""
        totals = StationStatistics()
        totals.add(self._past)
        for session in self._sessions.values():
            totals.add(session.statistics)
        return totals

    def _session(self, admitted: Admitted) -> StationSession:
        """The session of a packet, made if need be."""
        envelope = admitted.envelope
        known = self._sessions.get(envelope.sender)
        if known is not None:
            if known.envelope is envelope:
                return known
            self._drop(known)
        session = self._sessions[envelope.sender] = StationSession(
            envelope, self._events, answers=not self.config.simplex
        )
        if len(self._sessions) > MOST_SESSIONS:
            self._drop(next(iter(self._sessions.values())))
            self._past.sessions_dropped += 1
        return session

    def _refuse(self, error: RefusedError, data: bytes, now: float, path: Hashable) -> None:
        counter = error.cause.value
        setattr(self._past, counter, getattr(self._past, counter) + 1)
        if error.cause not in self._causes_told:
            self._causes_told.add(error.cause)
            self._refusals.append(PacketRefused(error.cause, str(error), path))
        if error.tag is not None:
            self._answer_stranger(error.tag, encode_reset(error.tag), now, path)
        elif error.cause is Cause.OTHER_VERSION and wants_versions(data):
            self._answer_stranger(-1, encode_versions(data), now, path)

    def _drop(self, session: StationSession) -> None:
        sender = session.sender
        self._gate.forget(session.envelope)
        session.statistics.blocks_dropped += session.unfinished_blocks
        self._past.add(session.statistics)
        self._buffered -= session.buffered_bytes
        self._timers.pop(sender, None)
        del self._sessions[sender]

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
            self._timers.pop(session.sender, None)
        else:
            self._timers[session.sender] = at

    def _answer_stranger(self, about: int, answer: bytes, now: float, path: Hashable) -> None:
        """Answer a packet of nobody, seldom enough that nobody can be flooded by it."""
        key = (path, about)
        if now - self._answer_times.get(key, -_ANSWER_EVERY) < _ANSWER_EVERY:
            return
        self._answer_times[key] = now
        self._answer_times.move_to_end(key)
        if len(self._answer_times) > _ANSWERS_REMEMBERED:
            self._answer_times.popitem(last=False)
        if len(self._answers) < _ANSWERS_REMEMBERED:
            self._answers.append((path, answer))
