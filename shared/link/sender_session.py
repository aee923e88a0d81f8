"""The sender's end of a link: layers in, packets out, acknowledgements in. No I/O, no clock."""

from collections import deque
from collections.abc import Collection, Sequence

from shared.errors import CorruptDataError, PinholeError
from shared.link.blocks import QUESTION, OutgoingBlock
from shared.link.budget import TokenBucket
from shared.link.config import LinkConfig
from shared.link.control import Echo, Report, Request, parse_report
from shared.link.envelope import SenderEnvelope
from shared.link.events import SenderEvent
from shared.link.frames import LARGEST_LAYER, LARGEST_SEQUENCE, MOST_LAYERS, Piece
from shared.link.gilbert import TELLING_PACKETS
from shared.link.introduction import Introduction
from shared.link.outstanding import Outstanding
from shared.link.packet import (
    BLOCK_NUMBERS,
    CONTROL,
    COUNTERS,
    DataPacket,
    OutgoingPacket,
    encode_data,
    place_bytes,
    reset_tag,
    spoken_versions,
    unwrap_counter,
)
from shared.link.parity import AdaptiveParity, FixedParity, ParityPlan
from shared.link.patience import Patience
from shared.link.plain import PlainSender
from shared.link.round_trip import SentPackets
from shared.link.send_queue import Choice, SendQueue
from shared.link.settling import Settling
from shared.link.statistics import SenderStatistics

_SMALL_SYMBOL = 64
"""Bytes up to which a question carries a symbol, in case that is what the station lacks."""


class SenderSession:
    """One start of one sender.

    Nothing is ever given up unless the owner withdraws it; see `Patience` for what happens while the station is silent.

    Args:
        config: settings.
        envelope: protects the packets, and says whose they are.
        now: seconds; all times must come from one clock that does not run backwards.

    Attributes:
        versions_spoken: those of the protocol that the other end says it speaks instead of ours, empty if it has not
            said so. Nothing proves that it is true, so nothing follows from it but a word to the operator.
    """

    def __init__(self, config: LinkConfig, envelope: SenderEnvelope, *, now: float) -> None:
        self.config = config
        self.statistics = SenderStatistics()
        self.versions_spoken: tuple[int, ...] = ()
        self._envelope = envelope
        overhead = envelope.overhead(known=False)
        follow = config.adapt and not config.simplex
        self._parity: ParityPlan = AdaptiveParity(config, overhead) if follow else FixedParity(config)
        self._queue = SendQueue(config, self._parity, overhead)
        self._bucket = None if config.rate is None else TokenBucket(config.rate, config.burst_bytes, now)
        self._patience = Patience(config.retransmit_after, now)
        self._introduction = Introduction(envelope, config.packet_bytes, simplex=config.simplex)
        self._outstanding = Outstanding(self.statistics)
        self._events: deque[SenderEvent] = deque()
        self._settling = Settling(self._queue, self._outstanding, self.statistics, self._events)
        self._times = SentPackets()
        self._known = False
        self._last_reset = -float("inf")
        self._now = now

    @classmethod
    def unsealed(cls, config: LinkConfig, *, sender: int, epoch: int, now: float) -> "SenderSession":
        """A session without seals; see `PlainSender` for the numbers and the errors."""
        return cls(config, PlainSender(sender, epoch), now=now)

    @property
    def backlog_bytes(self) -> int:
        """Bytes of layers submitted and not yet acknowledged (simplex: sent)."""
        return self._outstanding.backlog_bytes

    def submit(
        self,
        sequence: int,
        layers: Sequence[bytes],
        now: float,
        *,
        first_layer: int = 0,
        total_layers: int | None = None,
    ) -> None:
        """Take layers of one picture.

        Args:
            sequence: the picture's number, u32.
            layers: neighbouring layers, each at most 4 MiB. Layers already on their way are passed over.
            now: seconds.
            first_layer: number of the first of them.
            total_layers: layers of the whole picture, at most 16; None if ``layers`` reach its end.

        Raises:
            PinholeError: if a number or a size is out of range.
        """
        self._now = now
        total = first_layer + len(layers) if total_layers is None else total_layers
        if not 0 <= sequence <= LARGEST_SEQUENCE:
            raise PinholeError(f"picture number {sequence} does not fit into 32 bits")
        if first_layer < 0 or not first_layer + len(layers) <= total <= MOST_LAYERS:
            raise PinholeError(
                f"picture {sequence}: layers {first_layer} to {first_layer + len(layers) - 1} of {total} cannot be "
                f"sent, a picture has at most {MOST_LAYERS}"
            )
        for layer, payload in enumerate(layers, first_layer):
            if len(payload) > LARGEST_LAYER:
                raise PinholeError(
                    f"picture {sequence}: layer {layer} has {len(payload)} bytes, at most {LARGEST_LAYER} can be sent"
                )
        pieces = [
            Piece(sequence, layer, total, bytes(payload))
            for layer, payload in enumerate(layers, first_layer)
            if (sequence, layer) not in self._outstanding
        ]
        self._parity.note_submitted(pieces, now)
        self._note_backlog()
        for piece in pieces:
            self._outstanding.add(piece)
            self.statistics.layers_submitted += 1
            self.statistics.payload_bytes_submitted += len(piece.payload)
            self._queue.add(piece, now)

    def withdraw(self, sequences: Collection[int], now: float) -> None:
        """Give up pictures, because they are too old to be worth their bytes; what has arrived stays at the station."""
        self._now = now
        self._settling.withdraw(sequences)

    def receive_packet(self, data: bytes, now: float) -> None:
        """Take a packet from the station. Whatever is not from it is dropped and counted."""
        self._now = now
        try:
            versions = spoken_versions(data)
            if versions is not None:
                self.versions_spoken = versions
                return
            if self.config.simplex:
                raise CorruptDataError("nothing is to come back on this link")
            if reset_tag(data) == self._envelope.tag:
                self._reset(now)
                return
            incoming = self._envelope.unwrap(data)
            if not incoming.flags & CONTROL:
                raise CorruptDataError("a packet is not for a sender")
            report = parse_report(incoming.body)
        except CorruptDataError:
            self.statistics.packets_rejected += 1
            return
        self.statistics.reports_received += 1
        self._take_report(report, now)

    def packets_to_send(self, now: float) -> list[OutgoingPacket]:
        """The packets that may go out now, in order; they count as sent."""
        self._now = now
        self._queue.close_due(now)
        packets = []
        while (packet := self._next_packet()) is not None:
            packets.append(packet)
        return packets

    def next_timer(self) -> float | None:
        """Seconds at which to call `handle_timer` and `packets_to_send` again; None if only events can bring work."""
        times = [block.deadline for block in self._outstanding.blocks if block.deadline is not None]
        flush = self._queue.flush_at()
        if flush is not None:
            times.append(flush)
        choice = self._queue.choose(self._overhead, peek=True)
        if choice is not None:
            size = self._introduction.due(self._now, known=self._known) or self._packet_bytes(choice)
            times.append(self._now if self._bucket is None else self._bucket.ready_at(size, self._now))
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due: ask about blocks that got no answer. What is to be sent follows from `packets_to_send`."""
        self._now = now
        self._queue.close_due(now)
        for block in self._patience.due(self._outstanding.blocks, now):
            self._known = False
            self._introduction.want()
            self.statistics.timeouts += 1
            # The symbol might be just what the station lacks, but if it is the answer that was lost, it would be sent
            # for nothing; only where it costs hardly more than the question does it go along.
            size = block.symbol_bytes(0)
            small = size <= _SMALL_SYMBOL and self._may_name_itself(place_bytes(coded=block.coded) + size)
            self._queue.question(block, block.next_symbol_to_repair() if small else QUESTION)

    def next_event(self) -> SenderEvent | None:
        """The next thing that happened, None if there is nothing more."""
        return self._events.popleft() if self._events else None

    @property
    def _overhead(self) -> int:
        return self._envelope.overhead(known=self._known and not self.config.simplex)

    def _packet_bytes(self, choice: Choice) -> int:
        coded = choice.block.coded and choice.index != QUESTION
        size = place_bytes(coded=coded) + choice.block.symbol_bytes(choice.index)
        return self._envelope.overhead(known=self._counts_as_known(size)) + size

    def _counts_as_known(self, size: int) -> bool:
        """Whether a packet with a body of ``size`` bytes leaves it to others to name its session."""
        # A packet that was filled when the station was known has no room for more; questions are small.
        return not self.config.simplex and (self._known or not self._may_name_itself(size))

    def _may_name_itself(self, size: int) -> bool:
        return self._envelope.overhead(known=False) + size <= self.config.packet_bytes

    def _next_packet(self) -> OutgoingPacket | None:
        """The packet to send now, if there is one and the budget allows it."""
        # Looking before choosing keeps a block gathering for as long as the link is busy anyway.
        glance = self._queue.choose(self._overhead, peek=True)
        if glance is None:
            return None
        hello = self._introduction.due(self._now, known=self._known)
        size = hello or self._packet_bytes(glance)
        if self._bucket is not None and self._bucket.ready_at(size, self._now) > self._now:
            return None
        if hello:
            return self._send_hello()
        choice = self._queue.choose(self._overhead)
        if choice is None or not self._pay(self._packet_bytes(choice)):
            return None
        return self._send(choice)

    def _pay(self, size: int) -> bool:
        return self._bucket is None or self._bucket.take(size, self._now)

    def _send_hello(self) -> OutgoingPacket:
        data = self._introduction.take()
        self._pay(len(data))
        self.statistics.count_hello(len(data))
        return OutgoingPacket(data, 0)

    def _send(self, choice: Choice) -> OutgoingPacket:
        block, index = choice.block, choice.index
        self._queue.take(choice)
        self._settling.note_closed()
        if block.number is None:
            self._outstanding.take_number(block)
            self._plan_anew(block)
            if not self.config.simplex:
                for piece in self._outstanding.await_answer(block):
                    self._queue.add(piece, self._now)
        exhausted = not block.plan and not block.queued
        poll = (
            exhausted
            and not self.config.simplex
            and (block.coded or choice.queue is not None or self._queue.choose(self._overhead, peek=True) is None)
        )
        k, m, place = (block.k, block.m, index) if index != QUESTION else (1, 0, 0)
        number = (block.number or 0) % BLOCK_NUMBERS
        packet = DataPacket(number, place, k, m, block.symbol(index), poll=poll, mute=self.config.simplex)
        counter = self._envelope.sent
        body = encode_data(packet)
        data = self._envelope.wrap(packet.flags, body, known=self._counts_as_known(len(body)))
        self.statistics.count_symbol(block, index, len(data))
        block.sent.add(index)
        if not self.config.simplex:
            self._times.note(counter, self._now)
        self._introduction.sent(len(data))
        block.last_sent = self._now
        if self.config.simplex:
            self._settling.sent(block)
        elif exhausted and not block.done:
            self._patience.expect(block, self._now)
        return OutgoingPacket(data, block.priority)

    def _plan_anew(self, block: OutgoingBlock) -> None:
        """A block may have waited long since it was closed; what is known of the channel now decides its parity."""
        if block.coded and self._parity.follows:
            block.plan_repairs(self._parity.repairs(block.priority, block.k, self._now))

    def _reset(self, now: float) -> None:
        """Somebody says, without proof, that the station does not know this session: make it known, not too often."""
        self.statistics.resets_received += 1
        if now - self._last_reset < max(1.0, self._patience.round_trip.shortest or 0.0):
            return
        self._last_reset = now
        self._introduction.want()
        if self._known:
            self._known = False
            self._patience.start_over(self._outstanding.blocks, now)

    def _take_report(self, report: Report, now: float) -> None:
        self._settling.note_closed()
        self._patience.heard(self._outstanding.blocks, now, again=not self._known)
        self._known = True
        self._parity.note_heard()
        if report.echo is not None:
            self._measure(report.echo, now)
        if report.fit is not None:
            if report.fit.packets >= TELLING_PACKETS:
                self.statistics.loss, self.statistics.burst = report.fit.loss, report.fit.burst
            self._parity.note_fit(report.fit, now)
        for sequence, layers in report.acknowledged:
            for layer in range(MOST_LAYERS):
                if layers >> layer & 1 and (sequence, layer) in self._outstanding:
                    self._settling.acknowledged((sequence, layer))
        if report.stored is not None:
            for number in report.stored.numbers():
                block = self._outstanding.block(number)
                for key in [*block.layers] if block is not None else ():
                    self._settling.acknowledged(key)
        if report.taken is not None:
            self._settling.give_back(report.taken)
        self._note_backlog()
        for number in report.complete:
            block = self._outstanding.block(number)
            if block is not None:
                block.plan.clear()
                self._patience.rest(block, now)
        for request in report.requests:
            self._mend(request, now)

    def _note_backlog(self) -> None:
        if self.config.rate is not None:
            self._parity.note_backlog(8.0 * self.backlog_bytes / self.config.rate)

    def _measure(self, echo: Echo, now: float) -> None:
        """Take the round trip of the packet that the station heard last; every packet has a counter of its own."""
        sent = self._times.of(unwrap_counter(echo.counter, self._envelope.sent, COUNTERS))
        if sent is not None:
            self._patience.round_trip.measure(now - sent - echo.held / 1000)
            self.statistics.round_trip = self._patience.round_trip.smoothed
            self._parity.note_round_trip(self._patience.round_trip.smoothed or 0.0)

    def _mend(self, request: Request, now: float) -> None:
        block = self._outstanding.block(request.block)
        if block is None:
            return
        self.statistics.requests_received += 1
        shortest = self._patience.round_trip.shortest
        in_flight = shortest is not None and now - block.last_sent < 0.9 * shortest
        if block.plan or block.queued or in_flight:
            return
        block.attempts = 0
        block.deadline = None
        missing = [index for index in range(block.k) if request.misses(index)]
        needed = min(request.needed or block.k, block.k)
        for _ in range(self._parity.mending(block.priority, needed)):
            index = missing.pop(0) if missing and block.next_repair >= block.m else block.next_symbol_to_repair()
            self._queue.repair(block, index)
