"""Ids of senders belong to whom they were first, also when they are not in use any more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.link.envelope import Cause, RefusedError
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.sealed import SealedSender
from shared.link.sealed_gate import GateMemory, SealedGate
from shared.link.sender_ids import MOST_IDS, SenderIds

GROUND = SecretKey.generate(Role.STATION)
VICTIM = SecretKey.generate(Role.SENDER)
OTHER = SecretKey.generate(Role.SENDER)
LISTED = [ListedSender("victim", VICTIM.public), ListedSender("other", OTHER.public)]


def begin(gate: SealedGate, secret: SecretKey, sender: int, session: int) -> None:
    gate.admit(SealedSender(secret, GROUND.public, sender=sender, session=session).hello(1200)[0])


@pytest.mark.parametrize("restart", [False, True])
def test_a_listed_sender_cannot_take_anothers_former_id(restart: bool) -> None:
    gate = SealedGate([GROUND], LISTED)
    begin(gate, VICTIM, 0xAAAA, 1)
    begin(gate, VICTIM, 0xBBBB, 2)
    if restart:
        gate = SealedGate([GROUND], LISTED, gate.memory())
    for former in (0xAAAA, 0xBBBB):
        with pytest.raises(RefusedError, match=r"other claims the id 0000.* of victim") as caught:
            begin(gate, OTHER, former, 1)
        assert caught.value.cause is Cause.FORGED
        assert gate.name_of(former) == "victim"
    begin(gate, VICTIM, 0xAAAA, 3)
    begin(gate, OTHER, 0xCCCC, 1)
    assert gate.memory().ids == {VICTIM.identity: (0xBBBB, 0xAAAA), OTHER.identity: (0xCCCC,)}


def test_a_new_key_of_the_same_identity_keeps_the_former_ids() -> None:
    gate = SealedGate([GROUND], LISTED)
    begin(gate, VICTIM, 0xAAAA, 1)
    begin(gate, VICTIM, 0xBBBB, 2)
    fresh = SecretKey.generate(Role.SENDER)
    successor = SecretKey(Role.SENDER, VICTIM.identity, fresh.seal, fresh.curve)
    gate.set_allowed([ListedSender("victim", successor.public), LISTED[1]])
    with pytest.raises(RefusedError, match="claims the id"):
        begin(gate, OTHER, 0xAAAA, 1)
    begin(gate, successor, 0xAAAA, 1)


def test_ids_of_a_revoked_sender_are_free_and_then_the_next_ones() -> None:
    gate = SealedGate([GROUND], LISTED)
    begin(gate, VICTIM, 0xAAAA, 1)
    gate.set_allowed(LISTED[1:])
    assert gate.name_of(0xAAAA) is None
    begin(gate, OTHER, 0xAAAA, 1)
    begin(gate, OTHER, 0xDDDD, 2)
    gate = SealedGate([GROUND], LISTED, gate.memory())
    with pytest.raises(RefusedError, match="victim claims the id 0000aaaa of other"):
        begin(gate, VICTIM, 0xAAAA, 2)


def test_one_who_uses_very_many_ids_frees_only_its_own() -> None:
    gate = SealedGate([GROUND], LISTED)
    begin(gate, VICTIM, 0xAAAA, 1)
    for number in range(MOST_IDS + 10):
        begin(gate, OTHER, number, number)
    ids = gate.memory().ids
    assert ids[VICTIM.identity] == (0xAAAA,)
    assert ids[OTHER.identity] == tuple(range(10, MOST_IDS + 10))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=40))
def test_every_id_has_the_owner_that_used_it_last(claims: list[tuple[int, int]]) -> None:
    ids = SenderIds({})
    for sender, identity in claims:
        ids.claim(sender, identity)
    owners = dict(claims)
    for again in (ids, SenderIds(ids.by_identity())):
        assert {sender: again.owner(sender) for sender in range(6)} == {n: owners.get(n) for n in range(6)}
        assert again.by_identity() == ids.by_identity()
    assert all(ids.by_identity().values())


def test_a_memory_is_none_at_first() -> None:
    assert SealedGate([GROUND], LISTED).memory() == GateMemory({}, {})
