"""The station's side of one sender: packets in, layers out, acknowledgements and repair requests back."""

from collections import OrderedDict, deque
from collections.abc import Collection, Hashable, Iterable
from itertools import islice

from shared.errors import CorruptDataError
from shared.link.blocks import LayerKey
from shared.link.control import Echo, Report, Request, pack_report
from shared.link.delivered import DeliveredLayers
from shared.link.envelope import StationEnvelope
from shared.link.events import LayerReceived
from shared.link.frames import Frame, read_frames
from shared.link.gilbert import GilbertFit, LossObserver
from shared.link.packet import BLOCK_NUMBERS, COUNTERS, LONG, DataPacket, Incoming, parse_data, unwrap_counter
from shared.link.reassembly import IncomingBlock, IncomingLayer
from shared.link.statistics import StationStatistics
from shared.link.stored_run import StoredRun

ANSWER_AFTER = 0.25
"""Seconds for which acknowledgements are gathered, and for which packets that overtook each other are waited for."""

REQUEST_AFTER = 1.0
"""Seconds until a block is asked for when the sender went on with later ones but did not say that it is at its end."""

_PACKETS_UNHEARD = BLOCK_NUMBERS // 4
"""Packets lost in a row after which the 16 bits of a block's number may mean another one than they seem to."""

_BLOCKS_REMEMBERED = 4096
_NAMES_REMEMBERED = 65536
"""Layers that whole blocks are known to carry."""

_GAPS_WATCHED = 64
_CONFLICTS_ENDURED = 8
_COST_OF_AN_ENTRY = 512
"""Bytes that an unfinished block or layer is reckoned to take besides its data, so that empty ones are bounded too."""

_COST_OF_A_NAME = 128
"""The same for each layer that an unfinished block is known to carry."""


class StationSession:
    """One start of one sender.

    Args:
        envelope: whose, and what protects it.
        events: where received layers go.
        answers: whether there is a way back, as far as the station knows.
    """

    def __init__(self, envelope: StationEnvelope, events: deque[LayerReceived], *, answers: bool = True) -> None:
        self.envelope = envelope
        self.path: Hashable = None
        self.mute = not answers
        self._answers = answers
        self.statistics = StationStatistics()
        self.buffered_bytes = 0
        self._events = events
        self._highest: int | None = None
        self._blocks: OrderedDict[int, IncomingBlock] = OrderedDict()
        self._block_layers: dict[int, set[LayerKey]] = {}
        self._completed: OrderedDict[int, tuple[LayerKey, ...]] = OrderedDict()
        self._completed_names = 0
        self._layers: OrderedDict[LayerKey, IncomingLayer] = OrderedDict()
        self._delivered = DeliveredLayers()
        self._requests: dict[int, float] = {}
        self._asked: set[int] = set()
        self._complete: set[int] = set()
        self._echo: tuple[int, float] | None = None
        self._report_at: float | None = None
        self._greeted = False
        self._stored = StoredRun(self._is_stored)
        self._losses = LossObserver()

    @property
    def sender(self) -> int:
        """Id of the sender."""
        return self.envelope.sender

    def greet(self) -> None:
        """The sender made itself known and waits to hear that it is; the next packet tells whether it can."""
        self._greeted = True

    def receive(self, incoming: Incoming, size: int, now: float) -> None:
        """Take a packet of this session.

        Args:
            incoming: the packet.
            size: bytes of the packet, its header and check included.
            now: seconds.

        Raises:
            CorruptDataError: if its contents contradict themselves or what is known; nothing of it is kept.
        """
        packet = parse_data(incoming.flags, incoming.body)
        self.statistics.packets_received += 1
        self.statistics.bytes_received += size
        self.mute = packet.mute or not self._answers
        if self._highest is not None and incoming.counter - self._losses.highest > _PACKETS_UNHEARD:
            self._forget_numbers()
        self._losses.observe(incoming.counter, now)
        number = unwrap_counter(packet.block, self._highest, BLOCK_NUMBERS)
        block = self._blocks.get(number)
        if number in self._completed:
            self.statistics.symbols_duplicate += bool(packet.symbol)
            self.statistics.bytes_spurious += size if packet.symbol else 0
            self._repeat(self._completed[number], now)
            if not self._is_stored(number):
                self._complete.add(number)
                self._answer(now)
        elif packet.coded:
            self._take_symbol(number, block, packet, size, now)
        elif packet.symbol:
            self._complete_block(number, self._take_frames([*read_frames(packet.symbol)], now))
        self._note_progress(number, packet, incoming, now)

    def acknowledge(self, key: LayerKey, now: float, payload_hash: int | None = None) -> None:
        """The owner has stored a layer; see `Station.acknowledge`."""
        if payload_hash is not None and not self._delivered.handed_over(key, payload_hash):
            return
        self.statistics.layers_acknowledged += 1
        self._delivered.acknowledge(key, say=not self.mute)
        self._drop_layer(key)
        self._answer(now)

    def refuse(self, key: LayerKey, highest: int, now: float) -> None:
        """The owner has other bytes under a layer's number, and none of its picture is wanted; see `Station.refuse`."""
        self.statistics.layers_refused += 1
        self._delivered.refuse(key, highest, say=not self.mute)
        # Its other layers would join a picture that they do not belong to, whether or not they are half here.
        for other in [other for other in self._layers if other[0] == key[0]]:
            self._drop_layer(other)
        self._answer(now)

    def channel(self, now: float) -> GilbertFit | None:
        """What the way from the sender does to packets, None while too few have come to tell."""
        return self._losses.judged(now)

    def next_timer(self) -> float | None:
        """Seconds at which a report is due, None if none is."""
        if self._highest is None:
            return None  # only greeted so far: where the sender is, and whether it can hear, its first packet tells
        times = [at for at in (self._report_at, min(self._requests.values(), default=None)) if at is not None]
        return min(times, default=None)

    def reports(self, now: float, packet_bytes: int) -> list[bytes]:
        """The control packets that are due, each at most ``packet_bytes`` long."""
        due = self.next_timer()
        if due is None or due > now:
            return []
        requests = [self._request(number) for number, at in sorted(self._requests.items()) if at <= now]
        self._asked.update(number for number, at in self._requests.items() if at <= now and number in self._blocks)
        self._requests = {number: at for number, at in self._requests.items() if at > now}
        pictures, taken = self._delivered.say()
        complete = [
            number % BLOCK_NUMBERS
            for number in sorted(self._complete)
            if number in self._completed and not self._is_stored(number)
        ]
        echo = None
        if self._echo is not None:
            counter, heard = self._echo
            echo = Echo(counter % COUNTERS, max(0, min(int((now - heard) * 1000), 0xFFFFFFFF)))
        stored = None if self._highest is None else self._stored.say(self._highest)
        fit = self._losses.news(now)
        self._complete.clear()
        self._echo = None
        self._report_at = now + ANSWER_AFTER if self._delivered.something_to_say else None
        whole = Report(tuple(sorted(pictures.items())), tuple(requests), tuple(complete), echo, stored, fit, taken)
        messages = pack_report(whole, packet_bytes - self.envelope.overhead)
        packets = [self.envelope.wrap(message) for message in messages]
        self.statistics.requests_sent += len(requests)
        self.statistics.reports_sent += len(packets)
        self.statistics.report_bytes_sent += sum(map(len, packets))
        return packets

    def shrink(self) -> None:
        """Give up the oldest unfinished block, or else the oldest unfinished layer, to free memory."""
        if self._blocks:
            self._forget_block(next(iter(self._blocks)))
            self.statistics.blocks_dropped += 1
        elif self._layers:
            self._lose_layer(next(iter(self._layers)))

    @property
    def unfinished_blocks(self) -> int:
        """Blocks of which something is wanting."""
        return len(self._blocks)

    def _take_symbol(self, number: int, block: IncomingBlock | None, packet: DataPacket, size: int, now: float) -> None:
        # A source symbol is read before it is kept: one that is not made of frames is as good as lost.
        frames = [*read_frames(packet.symbol)] if packet.index < packet.k else []
        if block is None:
            block = IncomingBlock(packet.k, packet.m)
        before = block.bytes
        try:
            if (block.k, block.m) != (packet.k, packet.m):
                raise CorruptDataError("packets of one block disagree on its code")
            new = block.add(packet.index, packet.symbol)
        except CorruptDataError:
            self.statistics.symbols_conflicting += 1
            self.buffered_bytes += block.bytes - before
            block.conflicts += 1
            if block.conflicts > _CONFLICTS_ENDURED:
                # Perhaps it was the first symbol that lied, and honest ones are turned away for it: begin again.
                self._forget_block(number)
                self.statistics.blocks_dropped += 1
            raise
        if number not in self._blocks:
            self._blocks[number] = block
            self._block_layers[number] = set()
            self.buffered_bytes += _COST_OF_AN_ENTRY
        self.buffered_bytes += block.bytes - before
        names = self._block_layers[number]
        if not new:
            self.statistics.symbols_duplicate += 1
            self.statistics.bytes_spurious += size
            self._repeat(names, now)
            return
        self._take_frames(frames, now, number)
        if block.complete:
            self._complete_block(number, names)
        elif block.restorable:
            self._restore(number, block, now)

    def _restore(self, number: int, block: IncomingBlock, now: float) -> None:
        try:
            symbols, repaired = block.restore()
            frames = [frame for symbol in symbols for frame in read_frames(symbol)]
        except CorruptDataError:
            # Some symbol lied past its checksum. More symbols may tell which; until then the block stays open, and
            # asking for repair brings them.
            block.distrust()
            self.statistics.symbols_conflicting += 1
            self._requests.setdefault(number, now + ANSWER_AFTER)
            return
        self.statistics.symbols_recovered += len(symbols)
        self.statistics.columns_repaired += repaired
        self._take_frames(frames, now, number)
        self._complete_block(number, self._block_layers[number])

    def _complete_block(self, number: int, layers: Iterable[LayerKey]) -> None:
        self._completed[number] = tuple(layers)
        self._completed_names += len(self._completed[number])
        for layer in map(self._layers.get, self._completed[number]):
            if layer is not None:
                layer.blocks.add(number)
        self._complete.add(number)
        while len(self._completed) > _BLOCKS_REMEMBERED or self._completed_names > _NAMES_REMEMBERED:
            self._forget_completed(next(iter(self._completed)))
        self._forget_block(number)
        self._requests.pop(number, None)
        self.statistics.blocks_completed += 1

    def _forget_completed(self, number: int) -> None:
        names = self._completed.pop(number)
        self._completed_names -= len(names)
        for layer in map(self._layers.get, names):
            if layer is not None:
                layer.blocks.discard(number)
        self._complete.discard(number)

    def _forget_block(self, number: int) -> None:
        block = self._blocks.pop(number, None)
        if block is not None:
            names = self._block_layers.pop(number)
            self.buffered_bytes -= block.bytes + _COST_OF_AN_ENTRY + _COST_OF_A_NAME * len(names)
        self._asked.discard(number)

    def _forget_numbers(self) -> None:
        """Begin again with the numbers of blocks: a new one could be taken for one that is whole, and acknowledged."""
        for number in [*self._completed]:
            self._forget_completed(number)
        self.statistics.blocks_dropped += len(self._blocks)
        for number in [*self._blocks]:
            self._forget_block(number)
        self._requests.clear()
        self._stored = StoredRun(self._is_stored)
        self._highest = None

    def _lose_layer(self, key: LayerKey) -> None:
        """Give up an unfinished layer so that every block with a part of it counts as never received."""
        layer = self._layers[key]
        self._drop_layer(key)
        self.statistics.layers_dropped += 1
        for number in layer.blocks:
            self._forget_completed(number)
        for number in [number for number, keys in self._block_layers.items() if key in keys]:
            self._forget_block(number)

    def _take_frames(self, frames: list[Frame], now: float, number: int | None = None) -> set[LayerKey]:
        """Take the parts of layers that a symbol holds.

        Args:
            frames: the parts.
            now: seconds.
            number: of the unfinished block that they belong to, None for one that is whole with them.

        Returns:
            The layers.

        Raises:
            CorruptDataError: if a part contradicts another. Either may be the wrong one: the layer goes, and all blocks
                with a part of it count as never received, this one too, so that they come again.
        """
        keys = {(frame.sequence, frame.layer) for frame in frames}
        if number is not None:
            names = self._block_layers[number]
            self.buffered_bytes += _COST_OF_A_NAME * len(keys - names)
            names |= keys
        for frame in frames:
            key = (frame.sequence, frame.layer)
            if key in self._delivered:
                self.statistics.layers_duplicate += frame.final
                self._repeat((key,), now)
                continue
            self._take_frame(key, frame)
        return keys

    def _take_frame(self, key: LayerKey, frame: Frame) -> None:
        layer = self._layers.get(key)
        if layer is None:
            layer = self._layers[key] = IncomingLayer(frame.layers)
            self.buffered_bytes += _COST_OF_AN_ENTRY
        before = layer.bytes
        try:
            payload = layer.add(frame)
        except CorruptDataError:
            self._lose_layer(key)
            raise
        self.buffered_bytes += layer.bytes - before
        if payload is None:
            return
        self._drop_layer(key)
        self._delivered.hand_over(key, payload)
        self.statistics.layers_received += 1
        self._events.append(LayerReceived(self.sender, *key, frame.layers, payload))

    def _drop_layer(self, key: LayerKey) -> None:
        layer = self._layers.pop(key, None)
        if layer is not None:
            self.buffered_bytes -= layer.bytes + _COST_OF_AN_ENTRY

    def _repeat(self, layers: Collection[LayerKey], now: float) -> None:
        """Say once more what became of layers: that they come again shows that the first time was lost."""
        if not self.mute and self._delivered.repeat(layers):
            self._answer(now)

    def _note_progress(self, number: int, packet: DataPacket, incoming: Incoming, now: float) -> None:
        """Decide when to report, and which blocks to ask for."""
        highest, self._highest = self._highest, number if self._highest is None else max(self._highest, number)
        if self.mute:
            self._complete.clear()
            self._requests.clear()
            return
        self._echo = (incoming.counter, now)
        self._stored.heard_of(number)
        if incoming.flags & LONG or self._greeted:
            self._greeted = False
            self._answer(now)
        more = len(self._requests) < _BLOCKS_REMEMBERED
        if highest is not None and more:
            for gap in range(max(highest + 1, number - _GAPS_WATCHED), number):
                self._requests[gap] = now + REQUEST_AFTER
        if number in self._completed:
            self._requests.pop(number, None)
        elif number in self._requests or (packet.poll and more):
            # While symbols of a block keep coming there is nothing to ask for.
            self._requests[number] = now + (ANSWER_AFTER if packet.poll else REQUEST_AFTER)
        self._asked.discard(number)
        # The newest ones: of the oldest, perhaps nothing more comes, for their pictures may have been withdrawn.
        for other in islice(reversed(self._blocks), _GAPS_WATCHED):
            if other < number and other not in self._requests and other not in self._asked:
                self._requests[other] = now + REQUEST_AFTER

    def _answer(self, now: float) -> None:
        if self._report_at is None and not self.mute:
            self._report_at = now + ANSWER_AFTER

    def _request(self, number: int) -> Request:
        block = self._blocks.get(number)
        if block is None:
            return Request(number % BLOCK_NUMBERS, 0, b"")
        return Request(number % BLOCK_NUMBERS, block.needed, block.missing())

    def _is_stored(self, number: int) -> bool:
        layers = self._completed.get(number)
        return layers is not None and self._delivered.are_stored(layers)
