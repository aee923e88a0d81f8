"""``docs/vectors/link-v2.json`` and the code say the same, in both directions."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shared.errors import CorruptDataError
from shared.link.config import LinkConfig
from shared.link.control import parse_report
from shared.link.envelope import Cause, RefusedError
from shared.link.events import LayerReceived
from shared.link.frames import read_frames
from shared.link.gilbert import GilbertFit
from shared.link.keys import ListedSender, PublicKey, Role
from shared.link.packet import DataPacket, encode_data, parse_data, reset_tag, spoken_versions
from shared.link.plain import PlainGate, PlainSender
from shared.link.reed_solomon import restore
from shared.link.sealed_gate import SealedGate
from shared.link.station import Station
from shared.transports.mqtt.presence import State, parse_presence
from shared.transports.mqtt.topics import Topics, UpTopic
from shared.transports.zeromq.credit import Grant, Hello, parse_message
from shared.varint import decode_varint
from tests.link.make_transport_vectors import make_framings
from tests.link.make_vectors import COMMAND, DRONE, GROUND, PATH, as_text, make_sealed, make_vectors

FILE: dict[str, Any] = json.loads(PATH.read_text())
SEALED, UNSEALED = FILE["sealed"], FILE["unsealed"]


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def data_packet(vector: dict[str, Any]) -> DataPacket:
    fields = {name: vector[name] for name in ("block", "index", "k", "m", "poll", "mute")}
    return DataPacket(symbol=unhex(vector["symbol"]), **fields)


def sealed_gate() -> SealedGate:
    return SealedGate([GROUND], [ListedSender("drone", DRONE.public)])


def test_the_code_makes_the_file() -> None:
    assert PATH.read_text() == as_text(make_vectors()), (
        "bytes of the protocol have changed: that needs another version. If they should, or vectors were added: "
        + COMMAND
    )


@pytest.mark.parametrize("end", ["sender", "station"])
def test_public_keys_are_read(end: str) -> None:
    vector = FILE["keys"][end]
    key = PublicKey.parse(vector["text"])
    assert key == PublicKey(Role(end), vector["identity"], unhex(vector["seal_public"]), unhex(vector["curve_public"]))
    assert key.fingerprint == vector["fingerprint"]


def test_a_station_opens_every_sealed_packet() -> None:
    for hello in SEALED["hellos"]:
        gate = sealed_gate()
        for packet in hello["packets"]:
            admitted = gate.admit(unhex(packet))
        assert admitted is not None
        assert admitted.incoming is None
        assert admitted.envelope.sender == SEALED["sender"]
        for vector in SEALED["packets"]:
            if not hello["counter"] <= vector["counter"] < hello["counter"] + 32768:
                continue
            admitted = gate.admit(unhex(vector["packet"]))
            assert admitted is not None
            assert admitted.incoming is not None
            assert admitted.incoming.counter == vector["counter"]
            assert parse_data(admitted.incoming.flags, admitted.incoming.body) == data_packet(vector)


def test_a_sender_opens_every_sealed_report() -> None:
    sender, _ = make_sealed()
    for vector in SEALED["reports"]:
        if vector["counter"] < 32768:  # the others are those of a station that has sent as many before
            incoming = sender.unwrap(unhex(vector["packet"]))
            assert (incoming.counter, incoming.body) == (vector["counter"], unhex(vector["message"]))
            with pytest.raises(RefusedError) as caught:
                sender.unwrap(unhex(vector["packet"]))
            assert caught.value.cause is Cause.REPLAYED


def test_any_flipped_bit_of_a_sealed_packet_is_noticed() -> None:
    packets = [*SEALED["hellos"][0]["packets"], SEALED["packets"][0]["packet"]]
    for number, packet in enumerate(packets):
        for bit in range(4 * len(packet)):
            gate = sealed_gate()
            if number:
                gate.admit(unhex(packets[0]))
            damaged = bytearray(unhex(packet))
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(RefusedError):
                gate.admit(bytes(damaged))


def test_a_station_reads_every_unsealed_packet() -> None:
    gate = PlainGate()
    for vector in UNSEALED["packets"]:
        admitted = gate.admit(unhex(vector["packet"]))
        assert admitted.envelope.sender == UNSEALED["sender"]
        assert admitted.incoming is not None
        assert admitted.incoming.counter % 65536 == vector["counter"] % 65536
        assert parse_data(admitted.incoming.flags, admitted.incoming.body) == data_packet(vector)
        assert encode_data(data_packet(vector)) == unhex(vector["body"])


def test_a_sender_reads_every_unsealed_report() -> None:
    sender = PlainSender(UNSEALED["sender"], UNSEALED["epoch"])
    assert sender.tag == UNSEALED["tag"]
    for vector in UNSEALED["reports"]:
        assert sender.unwrap(unhex(vector["packet"])).body == unhex(vector["message"])


def test_answers_to_strangers_are_read() -> None:
    assert reset_tag(unhex(FILE["reset"]["packet"])) == FILE["reset"]["tag"]
    for vector in FILE["version_answers"]:
        spoken = spoken_versions(unhex(vector["packet"]))
        assert spoken == (None if vector["taken_as"] is None else tuple(vector["taken_as"]))


def test_a_station_answers_another_version_as_the_file_says() -> None:
    vector = FILE["version_answers"][-1]
    station = Station(LinkConfig(), now=0.0)
    station.receive_packet(unhex(vector["refused"]), 0.0, "path")
    assert station.packets_to_send(0.0) == [("path", unhex(vector["packet"]))]


def test_frames_are_read() -> None:
    for case in FILE["frames"]:
        for vector in case["symbols"]:
            frames = [*read_frames(unhex(vector["symbol"]))]
            assert [vars(frame) for frame in frames] == [
                frame | {"data": unhex(frame["data"])} for frame in vector["frames"]
            ]


def block_packets() -> list[bytes]:
    block = FILE["block"]
    symbols = [unhex(symbol) for symbol in block["sources"] + block["repairs"]]
    sender = PlainSender(UNSEALED["sender"], UNSEALED["epoch"])
    packets = [DataPacket(block["number"], i, block["k"], block["m"], symbol) for i, symbol in enumerate(symbols)]
    return [sender.wrap(packet.flags, encode_data(packet), known=False) for packet in packets]


@pytest.mark.parametrize("arriving", [range(5), range(5, 10), range(6, 11), (0, 3, 5, 8, 10), (10, 4, 2, 7, 6)])
def test_any_k_symbols_bring_the_layers(arriving: range | tuple[int, ...]) -> None:
    station = Station(LinkConfig(), now=0.0)
    packets = block_packets()
    for index in arriving:
        station.receive_packet(packets[index], 0.0)
    events = []
    while (event := station.next_event()) is not None:
        events.append(event)
    assert sorted(events, key=lambda event: event.sequence) == [
        LayerReceived(UNSEALED["sender"], layer["sequence"], layer["layer"], 2, unhex(layer["bytes"]))
        for layer in FILE["block"]["layers"]
    ]


def test_the_code_alone_restores_the_block() -> None:
    block = FILE["block"]
    repairs = {block["k"] + i: np.frombuffer(unhex(repair), np.uint8) for i, repair in enumerate(block["repairs"])}
    restored = restore(dict([*repairs.items()][: block["k"]]), block["k"], block["m"])
    length = len(unhex(block["sources"][0]))
    assert [row.tobytes() for row in restored] == [unhex(source).ljust(length, b"\0") for source in block["sources"]]


def test_reports_are_read() -> None:
    for vector in FILE["reports"]:
        report = parse_report(unhex(vector["message"]))
        assert [[*entry] for entry in report.acknowledged] == vector["acknowledged"]
        assert (None if report.echo is None else [*report.echo]) == vector["echo"]
        assert [[block, needed, missing.hex()] for block, needed, missing in report.requests] == vector["requests"]
        assert [*report.complete] == vector["complete"]
        stored = report.stored
        assert (None if stored is None else [stored.first, stored.run, stored.others.hex()]) == vector["stored"]
        fit = report.fit
        assert (None if fit is None else [fit.loss, fit.burst, fit.packets]) == vector["fit"]
        taken = report.taken
        assert (None if taken is None else [taken.highest, *taken.sequences]) == vector["taken"]


def test_fits_are_read() -> None:
    for vector in FILE["fits"]:
        assert GilbertFit.from_wire(vector["wire"]) == GilbertFit(vector["loss"], vector["burst"], vector["packets"])


def test_credit_messages_are_read() -> None:
    for vector in FILE["credit"]["grants"]:
        assert parse_message(unhex(vector["message"])) == Grant(vector["total"])
    for vector in FILE["credit"]["hellos"]:
        assert parse_message(unhex(vector["message"])) == Hello(vector["window"], vector["start"])
    for vector in [*SEALED["packets"], *SEALED["reports"], *UNSEALED["packets"], FILE["reset"]]:
        assert parse_message(unhex(vector["packet"])) is None


@pytest.mark.parametrize("kind", sorted(FILE["framing"]))
def test_streams_are_read(kind: str) -> None:
    vectors = FILE["framing"][kind]
    packets = [unhex(vector["packet"]) for vector in vectors["packets"]]
    stream = unhex(vectors["opening"] + vectors["after_silence"] + "".join(v["bytes"] for v in vectors["packets"]))
    # Frames with the call sign of this end are taken for its own, coming back.
    framing = make_framings(call_sign="N0CALL-8")[kind]
    assert framing.feed(stream) == [packets[0], *packets]
    assert framing.damaged == 0


def test_presence_messages_and_topics_are_read() -> None:
    for vector in FILE["mqtt"]["presence"]:
        word = parse_presence(unhex(vector["payload"]))
        assert word._asdict() == {
            **{name: vector[name] for name in ("incarnation", "counter", "group", "shards")},
            "state": State[vector["state"].upper()],
        }
    topics = FILE["mqtt"]["topics"]
    assert Topics().parse(topics["base"]) == UpTopic(SEALED["sender"], 0)
    assert Topics().parse(topics["refinement"]) == UpTopic(SEALED["sender"], 1)


READERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "bodies": lambda vector: parse_data(vector["flags"], unhex(vector["body"])),
    "symbols": lambda vector: [*read_frames(unhex(vector["symbol"]))],
    "varints": lambda vector: decode_varint(unhex(vector["bytes"]), 0, 2**64),
    "reports": lambda vector: parse_report(unhex(vector["message"])),
    "presence": lambda vector: parse_presence(unhex(vector["payload"])),
    "public_keys": lambda vector: PublicKey.parse(vector["text"]),
}


@pytest.mark.parametrize(
    ("kind", "vector"), [(kind, vector) for kind, vectors in FILE["refused"].items() for vector in vectors]
)
def test_what_is_wrong_is_refused(kind: str, vector: dict[str, Any]) -> None:
    with pytest.raises(CorruptDataError):
        READERS[kind](vector)
