"""Sessions and stations of benchmarks, sealed or not, that find each other across processes."""

import hashlib

from shared.link import LinkConfig, SenderSession, Station
from shared.link.envelope import Gate, SenderEnvelope
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.plain import PlainGate, PlainSender
from shared.link.sealed import SealedSender
from shared.link.sealed_gate import SealedGate


def sender_envelope(number: int, *, sealed: bool) -> SenderEnvelope:
    """Envelope of sender ``number`` (from 0), whose id is ``number + 1``."""
    if not sealed:
        return PlainSender(number + 1, 1)
    return SealedSender(_secret(Role.SENDER, number + 1), _secret(Role.STATION, 1).public, sender=number + 1, session=1)


def make_sender(config: LinkConfig, number: int, *, sealed: bool, now: float) -> SenderSession:
    """Session of sender ``number``."""
    return SenderSession(config, sender_envelope(number, sealed=sealed), now=now)


def station_gate(senders: int, *, sealed: bool) -> Gate:
    """Lets the first ``senders`` senders in; unsealed, anybody."""
    if not sealed:
        return PlainGate()
    listed = [_secret(Role.SENDER, number + 1).public for number in range(senders)]
    return SealedGate([_secret(Role.STATION, 1)], [ListedSender(f"sender-{key.identity}", key) for key in listed])


def make_station(config: LinkConfig, *, senders: int, sealed: bool, now: float) -> Station:
    """A station with that gate."""
    return Station(config, now=now, gate=station_gate(senders, sealed=sealed))


def _secret(role: Role, identity: int) -> SecretKey:
    """Keys that every process of a benchmark can make for itself, and so could anybody else."""
    seal, curve = (hashlib.sha256(f"benchmark {role} {identity} {use}".encode()).digest() for use in ("seal", "curve"))
    return SecretKey(role, identity, seal, curve)
