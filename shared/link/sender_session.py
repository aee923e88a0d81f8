"""The sender's end of a link: layers in, packets out, acknowledgements in. No I/O, no clock."""

from collections import deque
from collections.abc import Sequence

from shared.errors import CorruptDataError, PinholeError
from shared.link.blocks import LayerKey, OutgoingBlock
from shared.link.budget import TokenBucket
from shared.link.config import LinkConfig
from shared.link.control import Echo, Report, Request, parse_report
from shared.link.events import LayerAcknowledged, LayerSent, SenderEvent
from shared.link.frames import LARGEST_LAYER, LARGEST_SEQUENCE, MOST_LAYERS, Piece
from shared.link.packet import BLOCK_NUMBERS, DataPacket, SessionIdentity, data_overhead, encode_data, split_packet
from shared.link.round_trip import RoundTrip
from shared.link.send_queue import Choice, SendQueue
from shared.link.statistics import SenderStatistics

_NUMBERS_IN_FLIGHT = BLOCK_NUMBERS // 4
"""Blocks between the oldest unanswered and the newest, so that 16 bits on the wire always name one block."""

_PATIENCE = 4
"""Questions in vain before the waits begin to double."""

_ASKED_AT_ONCE = 4
_ATTEMPTS_AT_REST = _PATIENCE + 3


class SenderSession:
    """One start of one sender.

    Nothing is ever given up: while the station is silent a single symbol goes out now and then, at longer and longer
    intervals up to two minutes, and when it speaks again all goes on from there.

    Args:
        config: settings.
        sender: id of the sender, u32, kept for life.
        epoch: number of this start modulo 2**16, another at every start.
        now: seconds; all times must come from one clock that does not run backwards.

    Raises:
        PinholeError: if an id is out of range.
    """

    def __init__(self, config: LinkConfig, *, sender: int, epoch: int, now: float) -> None:
        if not 0 <= sender <= 0xFFFFFFFF or not 0 <= epoch <= 0xFFFF:
            raise PinholeError(f"sender id {sender} or epoch {epoch} does not fit into 32 and 16 bits")
        self.config = config
        self.statistics = SenderStatistics()
        self._identity = SessionIdentity(sender, epoch)
        self._seed = self._identity.checksum_seed
        self._queue = SendQueue(config)
        self._bucket = None if config.rate is None else TokenBucket(config.rate, config.burst_bytes, now)
        self._round_trip = RoundTrip(config.retransmit_after)
        self._events: deque[SenderEvent] = deque()
        self._layers: dict[LayerKey, Piece] = {}
        self._blocks: dict[int, OutgoingBlock] = {}
        self._carriers: dict[LayerKey, list[OutgoingBlock]] = {}
        self._next_number = 0
        self._backlog = 0
        self._known = False
        self._silent_rounds = 0
        self._heard_since_round = True
        self._last_round = now
        self._postponed: list[OutgoingBlock] = []
        self._now = now

    @property
    def backlog_bytes(self) -> int:
        """Bytes of layers submitted and not yet acknowledged (simplex: sent)."""
        return self._backlog

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
        for layer, payload in enumerate(layers, first_layer):
            key = (sequence, layer)
            if key in self._layers:
                continue
            piece = Piece(sequence, layer, total, bytes(payload))
            self._layers[key] = piece
            self._backlog += len(payload)
            self.statistics.layers_submitted += 1
            self.statistics.payload_bytes_submitted += len(payload)
            self._queue.add(piece, now)

    def receive_packet(self, data: bytes, now: float) -> None:
        """Take a packet from the station. Whatever is not from it is dropped and counted."""
        try:
            packet = split_packet(data)
            if packet.reset and packet.tag == self._identity.tag and not packet.body and packet.belongs_to(0):
                self.statistics.resets_received += 1
                self._start_over(now)
                return
            if not packet.control or packet.reset or not packet.belongs_to(self._seed):
                raise CorruptDataError("a packet is not for this sender")
            report = parse_report(packet.body)
        except CorruptDataError:
            self.statistics.packets_rejected += 1
            return
        self.statistics.reports_received += 1
        self._take_report(report, now)

    def packets_to_send(self, now: float) -> list[bytes]:
        """The packets that may go out now, in order; they count as sent."""
        self._now = now
        self._queue.close_due(now)
        packets = []
        while (choice := self._affordable()) is not None:
            packets.append(self._send(choice))
        return packets

    def next_timer(self) -> float | None:
        """Seconds at which to call `handle_timer` and `packets_to_send` again; None if only events can bring work."""
        times = [block.deadline for block in self._blocks.values() if block.deadline is not None]
        flush = self._queue.flush_at()
        if flush is not None:
            times.append(flush)
        choice = self._queue.choose(long=self._long, peek=True)
        if choice is not None:
            size = self._packet_bytes(choice)
            times.append(self._now if self._bucket is None else self._bucket.ready_at(size, self._now))
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due: ask about blocks that got no answer. What is to be sent follows from `packets_to_send`."""
        self._now = now
        self._queue.close_due(now)
        due = [block for block in self._blocks.values() if block.deadline is not None and block.deadline <= now]
        if not due:
            return
        due.sort(key=lambda block: (block.priority, block.last_sent))
        next_round = self._last_round + self._wait(self._silent_rounds)
        if self._heard_since_round:
            asked = due
        elif now < next_round:
            asked = []
        else:
            # On a lossy link a round may go unheard by chance, so a few more blocks ask before it counts as silence.
            # Then one symbol is enough to find out whether somebody is there again.
            self._silent_rounds += 1
            next_round = now + self._wait(self._silent_rounds)
            asked = due[:_ASKED_AT_ONCE] if self._silent_rounds <= _PATIENCE else due[:1]
        for block in due[len(asked) :]:
            block.deadline = next_round
            self._postponed.append(block)
        for block in asked:
            self._ask(block)

    def next_event(self) -> SenderEvent | None:
        """The next thing that happened, None if there is nothing more."""
        return self._events.popleft() if self._events else None

    @property
    def _long(self) -> bool:
        """Whether headers must name sender and epoch, because the station may not know them."""
        return self.config.simplex or not self._known

    def _wait(self, attempts: int) -> float:
        """Seconds to wait for an answer after so many questions in vain."""
        return self._round_trip.wait(max(0, attempts - _PATIENCE))

    def _packet_bytes(self, choice: Choice) -> int:
        return data_overhead(coded=choice.block.coded, long=self._long) + choice.block.symbol_bytes(choice.index)

    def _affordable(self) -> Choice | None:
        """The symbol to send now, if the budget allows it."""
        if self._bucket is None:
            return self._queue.choose(long=self._long)
        # Looking before choosing keeps a block gathering for as long as the link is busy anyway.
        glance = self._queue.choose(long=self._long, peek=True)
        if glance is None or self._bucket.ready_at(self._packet_bytes(glance), self._now) > self._now:
            return None
        choice = self._queue.choose(long=self._long)
        if choice is None or not self._bucket.take(self._packet_bytes(choice), self._now):
            return None
        return choice

    def _send(self, choice: Choice) -> bytes:
        block, index = choice.block, choice.index
        self._queue.take(choice)
        for closed in self._queue.take_closed():
            for key in closed.layers:
                self._carriers.setdefault(key, []).append(closed)
        if block.number is None:
            self._number(block)
        exhausted = not block.plan and not block.queued
        poll = (
            exhausted
            and not self.config.simplex
            and (block.coded or choice.queue is not None or self._queue.choose(long=self._long, peek=True) is None)
        )
        packet = encode_data(
            self._identity,
            DataPacket(
                (block.number or 0) % BLOCK_NUMBERS,
                index,
                block.k,
                block.m,
                block.symbol(index),
                poll=poll,
                mute=self.config.simplex,
                long=self._long,
            ),
        )
        self._count(block, index, len(packet))
        first, _ = block.sent.get(index, (self._now, self._now))
        block.sent[index] = (first, self._now)
        block.last_sent = self._now
        if self.config.simplex:
            self._report_sent(block)
        elif exhausted and not block.done:
            block.deadline = self._now + self._wait(block.attempts)
        return packet

    def _number(self, block: OutgoingBlock) -> None:
        block.number = self._next_number
        self._next_number += 1
        if self.config.simplex:
            return
        oldest = next(iter(self._blocks.values()), None)
        if oldest is not None and oldest.number is not None and block.number - oldest.number >= _NUMBERS_IN_FLIGHT:
            self._finish(oldest)
            for key in oldest.layers:
                self._carriers[key].remove(oldest)
                self._queue.add(self._layers[key], self._now)
        self._blocks[block.number % BLOCK_NUMBERS] = block

    def _count(self, block: OutgoingBlock, index: int, size: int) -> None:
        self.statistics.packets_sent += 1
        self.statistics.bytes_sent += size
        if index in block.sent:
            self.statistics.symbols_resent += 1
        elif index < block.k:
            self.statistics.source_symbols_sent += 1
        else:
            self.statistics.repair_symbols_sent += 1

    def _report_sent(self, block: OutgoingBlock) -> None:
        """Simplex: tell of the layers whose last packet this was."""
        if block.plan:
            return
        for key in block.layers:
            if self._queue.is_cut(key) or any(carrier.plan for carrier in self._carriers[key]):
                continue
            del self._carriers[key]
            self._backlog -= len(self._layers.pop(key).payload)
            self.statistics.layers_sent += 1
            self._events.append(LayerSent(*key))

    def _ask(self, block: OutgoingBlock) -> None:
        """Send a symbol of a block only to get an answer: the station acknowledges it or asks for what it misses."""
        self._heard_since_round = False
        self._last_round = self._now
        self._known = False
        self.statistics.timeouts += 1
        block.attempts += 1
        block.deadline = None
        self._queue.question(block, block.next_symbol_to_repair())

    def _start_over(self, now: float) -> None:
        """The station knows nothing of this session: what it was said to have or to be storing, it may not have."""
        if not self._known:
            return  # its answer to an earlier packet; the questions are on their way
        self._known = False
        for block in self._blocks.values():
            if block.deadline is not None:
                block.attempts = 0
                block.deadline = now

    def _wake_resting(self, now: float) -> None:
        """After a silence: the station that had these blocks may have died before it stored them, so ask soon."""
        for block in self._blocks.values():
            if block.deadline is not None and block.attempts >= _ATTEMPTS_AT_REST:
                block.attempts = 0
                block.deadline = min(block.deadline, now + self._wait(0))

    def _take_report(self, report: Report, now: float) -> None:
        self._now = now
        if not self._known:
            self._wake_resting(now)
        self._known = True
        self._heard_since_round = True
        if report.echo is not None:
            self._measure(report.echo, now)
        if self._silent_rounds:
            self._silent_rounds = 0
            for block in self._blocks.values():
                block.attempts = 0
        for block in self._postponed:
            if block.deadline is not None:
                block.deadline = now
        self._postponed.clear()
        for sequence, layers in report.acknowledged:
            for layer in range(MOST_LAYERS):
                if layers >> layer & 1 and (sequence, layer) in self._layers:
                    self._acknowledge((sequence, layer))
        for number in report.complete:
            self._rest(self._blocks.get(number), now)
        for request in report.requests:
            self._mend(request, now)

    def _measure(self, echo: Echo, now: float) -> None:
        block = self._blocks.get(echo.block)
        if block is None or echo.symbol not in block.sent:
            return
        first, last = block.sent[echo.symbol]
        longest, shortest = (now - at - echo.held / 1000 for at in (first, last))
        known = self._round_trip.smoothed
        # Of a symbol sent twice nobody knows which was heard, so it measures nothing (Karn's rule, RFC 6298 section 3).
        # But the round trip took at least since the last time and at most since the first, and that is what leads out
        # of time-outs so short that every symbol is sent twice.
        if shortest >= 0 and (first == last or known is None or shortest > known):
            self._round_trip.measure(longest if known is None else shortest)
            self.statistics.round_trip = self._round_trip.smoothed

    def _acknowledge(self, key: LayerKey) -> None:
        if key not in self._carriers or self._queue.is_cut(key):
            self._queue.drop_layer(key)
        self._backlog -= len(self._layers.pop(key).payload)
        for block in self._carriers.pop(key, ()):
            block.layers.discard(key)
            if not block.layers:
                self._finish(block)
        self.statistics.layers_acknowledged += 1
        self._events.append(LayerAcknowledged(*key))

    def _finish(self, block: OutgoingBlock) -> None:
        block.done = True
        block.deadline = None
        if block.number is not None and self._blocks.get(block.number % BLOCK_NUMBERS) is block:
            del self._blocks[block.number % BLOCK_NUMBERS]

    def _rest(self, block: OutgoingBlock | None, now: float) -> None:
        """The station has the block and stores its layers, or waits for parts in other blocks: ask again much later."""
        if block is not None:
            block.plan.clear()
            block.attempts = _ATTEMPTS_AT_REST
            block.deadline = now + self._wait(_ATTEMPTS_AT_REST)

    def _mend(self, request: Request, now: float) -> None:
        block = self._blocks.get(request.block)
        if block is None:
            return
        self.statistics.requests_received += 1
        shortest = self._round_trip.shortest
        in_flight = shortest is not None and now - block.last_sent < 0.9 * shortest
        if block.plan or block.queued or in_flight:
            return
        block.attempts = 0
        block.deadline = None
        missing = [index for index in range(block.k) if request.misses(index)]
        for _ in range(min(request.needed or block.k, block.k)):
            index = missing.pop(0) if missing and block.next_repair >= block.m else block.next_symbol_to_repair()
            self._queue.repair(block, index)
