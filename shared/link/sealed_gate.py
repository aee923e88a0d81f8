"""The gate of a station with keys: it lets in the senders on an allow list, and nobody else.

A stranger costs the station next to nothing: a hello of an identity that is not listed is dropped unread, one of a
listed identity costs as many MACs as that sender has keys, a sealed packet costs one failed decryption for every
session with its 8-bit tag. Nothing is kept of any of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.errors import CorruptDataError
from shared.link.envelope import Admitted, Cause, RefusedError, StationEnvelope
from shared.link.keys import ListedSender, SecretKey
from shared.link.packet import CONTROL, LONG, SEALED, OtherVersionError, check_version
from shared.link.seal import Hello, StaticSecret, agree, parse_hello
from shared.link.sealed import OVERHEAD, SealedSession
from shared.link.sender_ids import SenderIds


class Remembered(NamedTuple):
    """What a station must not forget of a sender's key, lest an old session be taken for a new one.

    Attributes:
        session: number of the newest session.
        counter: packets of that session below this one were taken.
        sender: id of the sender in that session.
    """

    session: int
    counter: int
    sender: int


class GateMemory(NamedTuple):
    """What a station must not forget, lest old sessions be taken again, or pictures of one sender be another's.

    Attributes:
        sessions: the newest session of each key, by the sender's X25519 public key (32 bytes).
        ids: sender ids that each identity has used (both u32), the one used longest ago first. No other identity on the
            allow list may claim them.
    """

    sessions: Mapping[bytes, Remembered]
    ids: Mapping[int, Sequence[int]]


@dataclass
class _Listed:
    """One key of a sender on the allow list."""

    sender: ListedSender
    statics: list[tuple[SecretKey, StaticSecret]]
    newest: Remembered | None = None
    half: Hello | None = None
    sessions: list[SealedSession] = field(default_factory=list)


class SealedGate:
    """Lets in the senders of an allow list.

    Args:
        keys: the station's keys; several while they are being rotated.
        allowed: the senders.
        memory: what `memory` gave in an earlier life of the station.
    """

    def __init__(
        self,
        keys: Sequence[SecretKey],
        allowed: Iterable[ListedSender],
        memory: GateMemory | None = None,
    ) -> None:
        self._keys = list(keys)
        self._remembered = dict(memory.sessions) if memory is not None else {}
        self._ids = SenderIds(memory.ids if memory is not None else {})
        self._listed: dict[bytes, _Listed] = {}
        self._by_id: dict[int, list[_Listed]] = {}
        self._by_tag: dict[int, list[SealedSession]] = {}
        self.sessions_begun = 0
        """Grows with every new session; what `memory` says should be stored before the next packet is acknowledged."""
        self.set_allowed(allowed)

    def set_allowed(self, allowed: Iterable[ListedSender]) -> list[int]:
        """Put another allow list in force; sessions of keys that are not on it end at once.

        Returns:
            Ids of the senders whose session ended.
        """
        before, present = dict(self._listed), {}
        for sender in allowed:
            listed = before.pop(sender.key.seal, None)
            if listed is None:
                statics = [(secret, StaticSecret.of_station(secret, sender.key)) for secret in self._keys]
                listed = _Listed(sender, statics, self._remembered.get(sender.key.seal))
            listed.sender = sender
            present[sender.key.seal] = listed
            if listed.newest is not None and self._ids.owner(listed.newest.sender) is None:
                # The memory is one of a time in which only this last id of each key was stored.
                self._ids.claim(listed.newest.sender, sender.key.identity)
        self._listed = present
        ended = []
        for listed in before.values():
            for session in [*listed.sessions]:
                self._end(listed, session)
                ended.append(session.sender)
        self._by_id = {}
        for listed in self._listed.values():
            self._by_id.setdefault(listed.sender.key.identity, []).append(listed)
        return ended

    def name_of(self, sender: int) -> str | None:
        """The name of the sender that used this id last, None for one that is not on the allow list."""
        owner = self._owner(sender)
        return None if owner is None else owner.name

    def memory(self) -> GateMemory:
        """What must be stored durably and given to the next life of this station."""
        for listed in self._listed.values():
            self._remember(listed)
        return GateMemory(dict(self._remembered), self._ids.by_identity())

    def admit(self, data: bytes) -> Admitted | None:
        """See `Gate`."""
        try:
            check_version(data)
        except OtherVersionError as error:
            raise RefusedError(Cause.OTHER_VERSION, str(error)) from None
        if not data[0] & SEALED:
            raise RefusedError(Cause.NOT_SEALED, "a packet is not sealed")
        if data[0] & LONG:
            session = self._greet(data)
            return None if session is None else Admitted(session, None)
        if len(data) < OVERHEAD or data[0] & CONTROL:
            raise RefusedError(Cause.DAMAGED, "a sealed packet is too short or not for a station")
        refused = RefusedError(
            Cause.UNKNOWN_SESSION,
            "a sealed packet is of no session known here: it is damaged, forged, or of a session that has ended",
            data[1],
        )
        for session in self._by_tag.get(data[1], ()):
            try:
                return Admitted(session, session.open(data))
            except RefusedError as error:
                refused = error  # another session may have the same tag
            except CorruptDataError:
                continue
        raise refused

    def forget(self, envelope: StationEnvelope) -> None:
        """See `Gate`."""
        for listed in self._listed.values():
            for session in [session for session in listed.sessions if session is envelope]:
                self._end(listed, session)

    def _greet(self, data: bytes) -> SealedSession | None:
        try:
            hello = parse_hello(data)
        except CorruptDataError as error:
            raise RefusedError(Cause.DAMAGED, str(error)) from None
        candidates = self._by_id.get(hello.name.identity)
        if not candidates:
            raise RefusedError(
                Cause.UNLISTED_SENDER,
                f"key {hello.name.identity:08x} is not on the allow list; see `pinhole keys allow`",
            )
        for listed in candidates:
            for secret, static in listed.statics:
                if hello.is_proved_by(static.hello_key):
                    return self._begin(listed, secret, static, hello)
        raise RefusedError(
            Cause.FORGED,
            f"a packet says it is of key {hello.name.identity:08x}, but none of the keys listed as that made it",
        )

    def _begin(self, listed: _Listed, secret: SecretKey, static: StaticSecret, hello: Hello) -> SealedSession | None:
        """The session of a proved hello; None after the first half of one."""
        family = self._by_id[hello.name.identity]
        for one in family:
            self._remember(one)
        # All keys of one sender share its sessions, so that a replay of an old key's last one cannot end a new one's.
        newest = max((one.newest for one in family if one.newest is not None), default=None)
        same = newest is not None and newest.session == hello.name.session
        if newest is not None and (hello.name.session < newest.session or (same and listed.newest != newest)):
            raise RefusedError(Cause.STALE_SESSION, f"a packet is of an earlier session of {listed.sender.name}")
        present = next((session for session in listed.sessions if session.name == hello.name), None)
        whole = self._whole(listed, hello)
        if whole is None:
            return None
        if present is not None:
            if present.ephemeral != whole.ephemeral:
                raise RefusedError(Cause.STALE_SESSION, f"two sessions of {listed.sender.name} have the same number")
            present.greet_again(whole.counter)
            return present
        owner = self._owner(whole.sender)
        if owner is not None and owner.key.identity != hello.name.identity:
            raise RefusedError(
                Cause.FORGED,
                f"{listed.sender.name} claims the id {whole.sender:08x} of {owner.name}; "
                f"if that is the same device with a new key, revoke the key of {owner.name}",
            )
        try:
            agreed = agree(secret.seal, whole.ephemeral)
        except CorruptDataError as error:
            raise RefusedError(Cause.FORGED, str(error)) from None
        keys = static.session_keys(whole.name, whole.sender, whole.ephemeral, agreed)
        for one in family:
            for old in [*one.sessions]:
                self._end(one, old)
        floor = newest.counter if newest is not None and same else 0
        session = SealedSession(whole.name, whole.sender, whole.ephemeral, *keys, floor)
        session.announced = whole.counter
        listed.sessions.append(session)
        self._by_tag.setdefault(session.tag, []).append(session)
        self._ids.claim(session.sender, hello.name.identity)
        self._remember(listed)
        self.sessions_begun += 1
        return session

    @staticmethod
    def _whole(listed: _Listed, hello: Hello) -> Hello | None:
        """The hello if it is known whole now; of halves one is kept for each listed key."""
        if hello.part == 0:
            return hello
        kept, listed.half = listed.half, None
        if kept is not None and kept.name == hello.name and kept.part != hello.part:
            first, second = sorted((kept, hello), key=lambda half: half.part)
            return second._replace(part=0, sender=first.sender, ephemeral=first.ephemeral + second.ephemeral)
        listed.half = hello
        return None

    def _owner(self, sender: int) -> ListedSender | None:
        """Who has used this sender id last; None if nobody has that is still on the list."""
        identity = self._ids.owner(sender)
        family = None if identity is None else self._by_id.get(identity)
        return family[0].sender if family else None

    def _end(self, listed: _Listed, session: SealedSession) -> None:
        self._remember(listed)
        listed.sessions.remove(session)
        same_tag = self._by_tag[session.tag]
        same_tag.remove(session)
        if not same_tag:
            del self._by_tag[session.tag]

    def _remember(self, listed: _Listed) -> None:
        for session in listed.sessions:
            listed.newest = Remembered(session.name.session, session.window.next, session.sender)
        if listed.newest is not None:
            self._remembered[listed.sender.key.seal] = listed.newest
