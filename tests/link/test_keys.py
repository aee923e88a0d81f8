import base64
import hashlib
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.errors import CorruptDataError, PinholeError
from shared.link.keys import KEY_BYTES, PublicKey, Role, SecretKey

public_keys = st.builds(
    PublicKey,
    st.sampled_from(Role),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES),
    st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES),
)
SPELLED = (
    "pinhole-sender-Gis8TQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj-NpZGX"
)


@given(public_keys)
def test_the_line_says_the_key(key: PublicKey) -> None:
    assert PublicKey.parse(key.text) == key
    assert PublicKey.parse(f"  {key.text}\r\n") == key
    assert key.text.startswith(f"pinhole-{key.role}-")
    assert set(key.text) <= set(string.ascii_letters + string.digits + "-_")


def test_the_line_is_what_it_always_was() -> None:
    seal, curve = bytes(range(32)), bytes(range(32, 64))
    key = PublicKey(Role.SENDER, 0x1A2B3C4D, seal, curve)
    body = bytes.fromhex("1a2b3c4d") + seal + curve
    check = hashlib.sha256(b"pinhole public key sender" + body).digest()[:4]
    assert key.text == "pinhole-sender-" + base64.urlsafe_b64encode(body + check).decode()
    assert key.text == SPELLED
    assert key.fingerprint.replace(" ", "") == hashlib.sha256(b"sender" + body).hexdigest()[:32]
    assert [len(group) for group in key.fingerprint.split(" ")] == [4] * 8


@given(public_keys, st.data())
def test_another_character_anywhere_is_refused(key: PublicKey, data: st.DataObject) -> None:
    text = key.text
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda character: character != text[place]))
    damaged = text[:place] + other + text[place + 1 :]
    try:
        parsed = PublicKey.parse(damaged)
    except CorruptDataError:
        return
    # A decoder may read the two last signs of plain base64 as those of base64url: they mean the same.
    assert (text[place], other) in (("-", "+"), ("_", "/"))
    assert parsed == key


@given(public_keys, st.data())
def test_a_line_that_was_cut_or_swapped_is_refused(key: PublicKey, data: st.DataObject) -> None:
    text = key.text
    with pytest.raises(CorruptDataError):
        PublicKey.parse(text[: data.draw(st.integers(0, len(text) - 1))])
    with pytest.raises(CorruptDataError):
        PublicKey.parse(text + data.draw(st.sampled_from(string.ascii_letters)))
    place = data.draw(st.integers(len(text) - 96, len(text) - 2))
    swapped = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    if swapped != text:
        with pytest.raises(CorruptDataError):
            PublicKey.parse(swapped)


@given(public_keys)
def test_a_key_of_one_end_never_passes_for_that_of_the_other(key: PublicKey) -> None:
    other = Role.STATION if key.role is Role.SENDER else Role.SENDER
    with pytest.raises(CorruptDataError):
        PublicKey.parse(key.text.replace(f"-{key.role}-", f"-{other}-", 1))
    assert PublicKey(other, key.identity, key.seal, key.curve).fingerprint != key.fingerprint


@given(st.one_of(st.text(), st.text().map("pinhole-sender-".__add__), st.text().map("pinhole-station-".__add__)))
@example("pinhole-sender-")
@example("pinhole-station-=")
def test_any_other_text_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(PinholeError) as caught:
        PublicKey.parse(text)
    assert "\n" not in str(caught.value)


def test_made_keys_are_new_and_keep_an_identity_when_told_to() -> None:
    first = SecretKey.generate(Role.STATION, made=7)
    second = SecretKey.generate(Role.STATION, identity=first.identity)
    assert first.made == 7
    assert first.public.role is second.public.role is Role.STATION
    assert first.public.identity == second.public.identity == first.identity
    halves = {first.seal, first.curve, second.seal, second.curve}
    halves |= {first.public.seal, first.public.curve, second.public.seal, second.public.curve}
    assert len(halves) == 8
    assert {len(half) for half in halves} == {KEY_BYTES}
    assert all(SecretKey.generate(Role.SENDER).identity for _ in range(20))


def test_the_public_half_is_that_of_rfc_7748() -> None:
    # Bob's keys of section 6.1.
    private = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    public = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    key = SecretKey(Role.STATION, 1, private, private)
    assert key.public == PublicKey(Role.STATION, 1, public, public)


def test_private_halves_are_not_shown() -> None:
    key = SecretKey.generate(Role.SENDER)
    shown = f"{key!r} {key}"
    for half in (key.seal, key.curve):
        assert repr(half) not in shown
        assert half.hex() not in shown
