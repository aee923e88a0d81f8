"""``docs/vectors/link-v2.json`` follows from the text of ``docs/protocol.md``: recomputed without any of our code."""

import base64
import hashlib
import hmac
import json
import struct
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import pytest
import reedsolo
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

FILE: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs" / "vectors" / "link-v2.json").read_text())
SEALED, UNSEALED = FILE["sealed"], FILE["unsealed"]
SENDER, STATION = FILE["keys"]["sender"], FILE["keys"]["station"]


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def x25519(private: str, public: str) -> bytes:
    return X25519PrivateKey.from_private_bytes(unhex(private)).exchange(
        X25519PublicKey.from_public_bytes(unhex(public))
    )


def public_of(private: str) -> str:
    return X25519PrivateKey.from_private_bytes(unhex(private)).public_key().public_bytes_raw().hex()


def sha256_mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def data_flags(vector: dict[str, Any]) -> int:
    coded = vector["k"] > 1 or vector["m"] > 0
    return (0x04 if coded else 0) | (0x02 if vector["poll"] else 0) | (0x01 if vector["mute"] else 0)


@pytest.mark.parametrize("key", [SENDER, STATION], ids=["sender", "station"])
def test_keys(key: dict[str, Any]) -> None:
    assert public_of(key["seal_private"]) == key["seal_public"]
    assert public_of(key["curve_private"]) == key["curve_public"]
    role = key["role"].encode()
    body = struct.pack(">I", key["identity"]) + unhex(key["seal_public"]) + unhex(key["curve_public"])
    check = hashlib.sha256(b"pinhole public key " + role + body).digest()[:4]
    text = base64.urlsafe_b64encode(body + check).rstrip(b"=").decode()
    assert key["text"] == f"pinhole-{key['role']}-{text}"
    digest = hashlib.sha256(role + body).hexdigest()
    assert key["fingerprint"] == " ".join(digest[i : i + 4] for i in range(0, 32, 4))


def test_key_derivation() -> None:
    static = x25519(SENDER["seal_private"], STATION["seal_public"])
    assert static.hex() == SEALED["agreed_static"] == x25519(STATION["seal_private"], SENDER["seal_public"]).hex()
    ephemeral = x25519(SEALED["ephemeral_private"], STATION["seal_public"])
    assert ephemeral.hex() == SEALED["agreed_ephemeral"]
    assert public_of(SEALED["ephemeral_private"]) == SEALED["ephemeral_public"]
    both = unhex(STATION["seal_public"] + SENDER["seal_public"])
    # HKDF of 32 bytes: extract and one round of expand.
    hello_key = sha256_mac(sha256_mac(b"pinhole link 2", static), b"hello" + both + b"\x01")
    assert hello_key.hex() == SEALED["hello_key"]
    name = struct.pack(">I", SEALED["identity"]) + SEALED["session"].to_bytes(5, "big")
    sender = struct.pack(">I", SEALED["sender"])
    salt = hashlib.sha256(b"pinhole link 2" + both + unhex(SEALED["ephemeral_public"]) + name + sender).digest()
    assert salt.hex() == SEALED["salt"]
    mixed = sha256_mac(sha256_mac(salt, ephemeral + static), b"session\x01")
    assert mixed.hex() == SEALED["mixed"]
    assert sha256_mac(mixed, b"up\x01").hex() == SEALED["key_up"]
    assert sha256_mac(mixed, b"down" + unhex(SEALED["life"]) + b"\x01").hex() == SEALED["key_down"]


def fold(identity: bytes) -> int:
    tag = 0
    for byte in identity:
        tag = (5 * tag + byte) % 256
    return tag


def test_hellos() -> None:
    name = struct.pack(">I", SEALED["identity"]) + SEALED["session"].to_bytes(5, "big")
    assert fold(name) == SEALED["tag"]
    key = unhex(SEALED["hello_key"])
    sender, ephemeral = struct.pack(">I", SEALED["sender"]), unhex(SEALED["ephemeral_public"])
    for vector in SEALED["hellos"]:
        counter = struct.pack(">I", vector["counter"])
        if vector["largest_packet"] >= 66:
            contents = [b"\xb0" + name + sender + counter + ephemeral]
        else:
            contents = [b"\xb1" + name + sender + ephemeral[:16], b"\xb2" + name + counter + ephemeral[16:]]
        packets = [content + hashlib.blake2s(content, key=key, digest_size=16).digest() for content in contents]
        assert [packet.hex() for packet in packets] == vector["packets"]
        assert all(len(packet) <= vector["largest_packet"] for packet in packets)


def test_bodies() -> None:
    for vector in SEALED["packets"] + UNSEALED["packets"]:
        place = struct.pack(">H", vector["block"])
        if data_flags(vector) & 0x04:
            place += bytes([vector["index"], vector["k"], vector["m"]])
        assert (place + unhex(vector["symbol"])).hex() == vector["body"]


def test_sealed_packets() -> None:
    cipher = ChaCha20Poly1305(unhex(SEALED["key_up"]))
    for vector in SEALED["packets"]:
        header = struct.pack(">BBH", 0x80 | 0x20 | data_flags(vector), SEALED["tag"], vector["counter"] % 65536)
        nonce = vector["counter"].to_bytes(12, "big")
        packet = unhex(vector["packet"])
        assert packet == header + cipher.encrypt(nonce, unhex(vector["body"]), header)
        with pytest.raises(InvalidTag):
            cipher.decrypt((vector["counter"] + 1).to_bytes(12, "big"), packet[4:], header)


def test_sealed_reports() -> None:
    cipher = ChaCha20Poly1305(unhex(SEALED["key_down"]))
    for vector in SEALED["reports"]:
        header = struct.pack(">BBH", 0xA8, SEALED["tag"], vector["counter"] % 65536) + unhex(SEALED["life"])
        sealed = cipher.encrypt(vector["counter"].to_bytes(12, "big"), unhex(vector["message"]), header)
        assert (header + sealed).hex() == vector["packet"]


def test_unsealed_packets_and_reports() -> None:
    identity = struct.pack(">IH", UNSEALED["sender"], UNSEALED["epoch"])
    assert fold(identity) == UNSEALED["tag"]
    for vector in UNSEALED["packets"]:
        name = identity if vector["long"] else bytes([UNSEALED["tag"]])
        flags = 0x80 | 0x10 * vector["long"] | data_flags(vector)
        packet = bytes([flags]) + name + struct.pack(">H", vector["counter"] % 65536) + unhex(vector["body"])
        assert (packet + struct.pack(">I", zlib.crc32(identity + packet))).hex() == vector["packet"]
    for vector in UNSEALED["reports"]:
        packet = struct.pack(">BBH", 0x88, UNSEALED["tag"], vector["counter"]) + unhex(vector["message"])
        assert (packet + struct.pack(">I", zlib.crc32(identity + packet))).hex() == vector["packet"]


def test_answers_to_strangers() -> None:
    reset = bytes([0x89, FILE["reset"]["tag"]])
    assert FILE["reset"]["packet"] == (reset + struct.pack(">I", zlib.crc32(reset))).hex()
    for vector in FILE["version_answers"]:
        answer = b"\xc8\x00" + unhex(vector["refused"])[:4].ljust(4, b"\0") + bytes([FILE["version"]])
        assert vector["packet"] == (answer + struct.pack(">I", zlib.crc32(answer))).hex()


def test_varints() -> None:
    for vector in FILE["varints"]:
        data = unhex(vector["bytes"])
        assert sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data)) == vector["value"]
        assert [byte >> 7 for byte in data] == [1] * (len(data) - 1) + [0]
        assert len(data) == max(1, -(-vector["value"].bit_length() // 7))


def test_counters() -> None:
    for vector in FILE["counters"]:
        near = range(vector["highest"] - 32768, vector["highest"] + 32768)
        assert [number for number in near if number % 65536 == vector["wire"]] == [vector["counter"]]


def test_replay_decisions() -> None:
    for vector in FILE["replay"]:
        taken: set[int] = set()
        for counter, decision in vector["taken"]:
            newest = max(taken, default=vector["floor"] - 1)
            assert decision == (
                counter >= vector["floor"] and counter > newest - vector["window"] and counter not in taken
            )
            if decision:
                taken.add(counter)


def test_repair_symbols() -> None:
    block = FILE["block"]
    sources = [unhex(source) for source in block["sources"]]
    length = len(sources[0])
    assert {len(source) for source in sources[:-1]} == {length}
    assert len(sources[-1]) < length
    codec = reedsolo.RSCodec(block["m"])
    columns = zip(*(source.ljust(length, b"\0") for source in sources), strict=True)
    words = [codec.encode(bytes(column)) for column in columns]
    repairs = [bytes(word[block["k"] + i] for word in words).hex() for i in range(block["m"])]
    assert repairs == block["repairs"]


def test_reports() -> None:
    for vector in FILE["reports"]:
        steps, before = [], 0
        for sequence, layers in vector["acknowledged"]:
            steps += [sequence - before, layers]
            before = sequence
        stored, fit, taken = vector["stored"], vector["fit"], vector["taken"]
        parts: list[list[object]] = [
            steps,
            vector["echo"] or [],
            [unhex(item) if isinstance(item, str) else item for request in vector["requests"] for item in request],
            vector["complete"],
            [] if stored is None else [stored[0], stored[1], unhex(stored[2])],
            [] if fit is None else [round(fit[0] * 10_000), round(fit[1] * 16), fit[2]],
            [] if taken is None else [*taken[:2], *(after - first for first, after in pairwise(taken[1:]))],
        ]
        while parts and not parts[-1]:
            parts.pop()
        assert msgpack.packb(parts).hex() == vector["message"]


def test_credit_messages() -> None:
    for vector in FILE["credit"]["grants"]:
        assert vector["message"] == struct.pack(">BI", 1, vector["total"]).hex()
    for vector in FILE["credit"]["hellos"]:
        assert vector["message"] == struct.pack(">BII", 2, vector["window"], vector["start"]).hex()


def test_presence_messages_and_shards() -> None:
    for vector in FILE["mqtt"]["presence"]:
        fields = [vector["incarnation"], vector["counter"], ["lost", "closed", "alive"].index(vector["state"])]
        fields += [vector["group"], vector["shards"]] if vector["group"] else []
        assert msgpack.packb(fields).hex() == vector["payload"]
    for vector in FILE["mqtt"]["shards"]:
        assert zlib.crc32(struct.pack(">I", vector["sender"])) >> 28 == vector["shard"]
    group = FILE["mqtt"]["group"]
    for shard, station in enumerate(group["owners"]):
        weights = {
            hashlib.blake2s(bytes([shard]) + struct.pack(">I", one), digest_size=8).digest(): one
            for one, shards in group["willing"]
            if shards >> shard & 1
        }
        assert weights[max(weights)] == station


def unstuffed(frame: bytes) -> bytes:
    out, at = b"", 0
    while at < len(frame):
        run, at = frame[at], at + frame[at]
        out += frame[at - run + 1 : at]
        # Every run but a full one stands for a zero as well; that of the last is the end of the packet.
        if run < 255 and at < len(frame):
            out += b"\0"
    return out


def test_cobs() -> None:
    for vector in FILE["framing"]["cobs"]["packets"]:
        data = unhex(vector["bytes"])
        assert data.index(0) == len(data) - 1
        assert unstuffed(data[:-1]) == unhex(vector["packet"])
    plain, spared = FILE["framing"]["cobs"]["packets"], FILE["framing"]["cobs_xonxoff"]["packets"]
    for vector, other in zip(plain, spared, strict=True):
        escaped = b"".join(
            bytes([0x7D, byte ^ 0x20]) if byte in (0x7D, 0x11, 0x13) else bytes([byte])
            for byte in unhex(vector["bytes"])
        )
        assert escaped.hex() == other["bytes"]


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        ("kiss", b"\x00"),
        ("kiss_port_12", b"\xc0"),
        (
            "kiss_ax25",
            b"\x00" + bytes(2 * c for c in b"PINHOL") + b"\xe0" + bytes(2 * c for c in b"N0CALL") + b"\x6f\x03\xf0",
        ),
    ],
)
def test_kiss(kind: str, before: bytes) -> None:
    escapes = {0xC0: b"\xdb\xdc", 0xDB: b"\xdb\xdd"}
    for vector in FILE["framing"][kind]["packets"]:
        inside = b"".join(escapes.get(byte, bytes([byte])) for byte in before + unhex(vector["packet"]))
        assert vector["bytes"] == (b"\xc0" + inside + b"\xc0").hex()
