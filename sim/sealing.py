"""Keys and envelopes for sessions of the simulator, sealed or not."""

from shared.link.envelope import Gate, SenderEnvelope
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.plain import PlainGate, PlainSender
from shared.link.sealed import SealedSender
from shared.link.sealed_gate import SealedGate


def envelopes(senders: int, *, sealed: bool) -> tuple[list[SenderEnvelope], Gate]:
    """Envelopes of senders with the ids 1 upwards, and the gate of a station that lets them in.

    Sealed ones have new keys each time; the bytes differ, sizes and numbers of packets do not.
    """
    ids = range(1, senders + 1)
    if not sealed:
        return [PlainSender(number, 1) for number in ids], PlainGate()
    station = SecretKey.generate(Role.STATION)
    secrets = [SecretKey.generate(Role.SENDER, identity=number) for number in ids]
    listed = [ListedSender(f"sender-{secret.identity}", secret.public) for secret in secrets]
    return [SealedSender(secret, station.public, sender=secret.identity, session=1) for secret in secrets], SealedGate(
        [station], listed
    )
