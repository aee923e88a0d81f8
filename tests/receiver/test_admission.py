"""Who may send, as a running station follows it."""

import asyncio
from pathlib import Path

import msgpack
import pytest

from receiver.admission import Admission, SessionMemory, default_state, state_name, tell_refusals
from receiver.listeners import Listeners
from receiver.listeners import Path as WayBack
from shared.allowlist import AllowListFile, allow, revoke
from shared.errors import PinholeError
from shared.link import LinkConfig, SenderSession, Station
from shared.link.keys import Role, SecretKey
from shared.link.sealed import SealedSender
from shared.link.sealed_gate import GateMemory, Remembered
from shared.transports import open_station
from shared.transports.base import StationTransport
from shared.transports.lasting import LastingStation, _again
from tests.sender.test_node import until

GROUND = SecretKey.generate(Role.STATION)
DRONE = SecretKey.generate(Role.SENDER)
OTHER = SecretKey.generate(Role.SENDER)


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    path = tmp_path / "keys" / "allowed"
    allow(path, "drone", DRONE.public)
    return path


def admission(tmp_path: Path, allowed: Path, report: Lines) -> Admission:
    memory = SessionMemory(tmp_path / "state" / "sessions")
    return Admission([GROUND], AllowListFile(allowed), memory, report)


def packets(secret: SecretKey, session: int, sender: int = 7) -> list[bytes]:
    sending = SenderSession(LinkConfig(), SealedSender(secret, GROUND.public, sender=sender, session=session), now=0.0)
    sending.submit(1, [bytes(200)], 0.0)
    return [packet for packet, _ in sending.packets_to_send(5.0)]


def received(station: Station, sent: list[bytes]) -> int:
    for packet in sent:
        station.receive_packet(packet, 1.0, "path")
    return len([*iter(station.next_event, None)])


def test_a_restarted_station_knows_which_sessions_are_old(tmp_path: Path, allowed: Path) -> None:
    yesterday, today = packets(DRONE, 5), packets(DRONE, 6)
    for sent, taken in ((yesterday, 1), (today, 1), (yesterday, 0), (today, 0)):
        admitting = admission(tmp_path, allowed, Lines())
        station = Station(LinkConfig(), now=0.0, gate=admitting.gate)
        assert received(station, sent) == taken
        assert admitting.before_acknowledging()
        admitting.close()
        assert admitting.name_of(7) == "drone"
        assert admitting.name_of(8) == ""


def test_nothing_is_acknowledged_whose_session_cannot_be_remembered(
    tmp_path: Path, allowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Lines()
    admitting = admission(tmp_path, allowed, report)
    station = Station(LinkConfig(), now=0.0, gate=admitting.gate)
    assert admitting.before_acknowledging(), "nothing has begun"
    received(station, packets(DRONE, 1))

    def full(path: Path, data: bytes) -> None:
        raise PinholeError(f"cannot write {path}: no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("receiver.admission.write_atomically", full)
        assert not admitting.before_acknowledging()
        assert not admitting.before_acknowledging()
        assert len(report.warnings) == 1
        assert "no space left" in report.warnings[0]
    assert admitting.before_acknowledging()


def test_the_allow_list_is_followed(tmp_path: Path, allowed: Path) -> None:
    report = Lines()
    admitting = admission(tmp_path, allowed, report)
    station = Station(LinkConfig(), now=0.0, gate=admitting.gate)
    assert received(station, packets(DRONE, 1)) == 1
    revoke(allowed, "drone")
    allow(allowed, "other", OTHER.public)
    admitting.tick(station, 10.0)
    assert station.senders == []
    assert received(station, packets(DRONE, 2)) == 0
    assert received(station, packets(OTHER, 2)) == 1, "a new key for the device whose key was revoked"
    assert len([line for line in report.lines if "allow list" in line]) == 1
    allowed.write_text("complete nonsense\n")
    admitting.tick(station, 20.0)
    admitting.tick(station, 30.0)
    assert len(report.warnings) == 1
    tell_refusals(station, report)
    told = "\n".join(report.warnings)
    assert f"{DRONE.identity:08x} is not on the allow list" in told
    assert "path" in told


def test_a_former_id_is_its_senders_also_after_a_restart(tmp_path: Path, allowed: Path) -> None:
    allow(allowed, "other", OTHER.public)
    # The first sender's spool is lost, and the new one has another id. Its old pictures stay its own all the same.
    for secret, session, sender, taken in ((DRONE, 1, 7, 1), (DRONE, 2, 8, 1), (OTHER, 1, 7, 0), (DRONE, 3, 7, 1)):
        admitting = admission(tmp_path, allowed, Lines())
        station = Station(LinkConfig(), now=0.0, gate=admitting.gate)
        assert received(station, packets(secret, session, sender)) == taken
        assert admitting.before_acknowledging()
        assert admitting.name_of(7) == "drone"
        admitting.close()


def test_two_stations_do_not_share_a_memory(tmp_path: Path, allowed: Path) -> None:
    first = admission(tmp_path, allowed, Lines())
    with pytest.raises(PinholeError, match=r"in use by another receiver.*--state") as caught:
        admission(tmp_path, allowed, Lines())
    assert "\n" not in str(caught.value)
    first.close()
    admission(tmp_path, allowed, Lines()).close()


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x00", b"\x92\x01\x91\x93\xc4\x01a\x01\x02", b"\x92\x01\x93", b"\xff" * 40),
        *(msgpack.packb([2, [], ids]) for ids in ([[-1, 2]], [[1, 1 << 32]], [[1, b"x"]], [[[], 1]], [1])),
        *(msgpack.packb(whole) for whole in ([2, []], [1, [], []], [1, 7], [2, [], [], []])),
    ],
)
def test_a_damaged_memory_is_one_clear_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "sessions"
    path.write_bytes(data)
    with pytest.raises(PinholeError, match="damaged") as caught:
        SessionMemory(path).load()
    assert "\n" not in str(caught.value)
    path.unlink()
    SessionMemory(path).load()


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    sessions = {DRONE.public.seal: Remembered(5, 17, 7), OTHER.public.seal: Remembered(1 << 39, 0, 8)}
    memory = GateMemory(sessions, {DRONE.identity: (9, 7), OTHER.identity: (0xFFFFFFFF, 8)})
    keeper = SessionMemory(tmp_path / "deep" / "sessions")
    assert keeper.load() == GateMemory({}, {})
    keeper.store(memory)
    keeper.close()
    assert SessionMemory(tmp_path / "deep" / "sessions").load() == memory


def test_a_memory_without_former_ids_is_read_and_its_last_ids_are_protected(tmp_path: Path, allowed: Path) -> None:
    allow(allowed, "other", OTHER.public)
    path = tmp_path / "state" / "sessions"
    path.parent.mkdir()
    path.write_bytes(msgpack.packb([1, [[DRONE.public.seal, 5, 17, 7]]]))
    admitting = admission(tmp_path, allowed, Lines())
    station = Station(LinkConfig(), now=0.0, gate=admitting.gate)
    assert received(station, packets(OTHER, 1)) == 0
    assert received(station, packets(DRONE, 5)) == 0, "packets below 17 are old"
    assert received(station, packets(DRONE, 6)) == 1
    admitting.close()
    path.write_bytes(msgpack.packb([3, [], [], []]))
    with pytest.raises(PinholeError, match="another version"):
        admission(tmp_path, allowed, Lines())


def test_the_state_has_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state(0xAB) == tmp_path / "pinhole" / "receiver" / state_name(0xAB)


class Unplugged:
    """A station transport that fails after one packet."""

    url = "serial:///dev/modem"

    def __init__(self) -> None:
        self.left = 1

    async def send(self, path: object, packet: bytes) -> None:
        raise OSError("unplugged")

    async def receive(self) -> tuple[str, bytes]:
        self.left -= 1
        if self.left < 0:
            raise OSError("unplugged")
        return "modem", b"packet"

    async def close(self) -> None:
        pass


def test_a_listener_on_any_free_port_comes_back_on_the_same_one_with_its_options() -> None:
    assert _again("udp://127.0.0.1:0?mtu=300", "udp://127.0.0.1:4711") == "udp://127.0.0.1:4711?mtu=300"
    assert _again("udp://127.0.0.1:9?mtu=300", "udp://127.0.0.1:9") == "udp://127.0.0.1:9?mtu=300"


def test_a_listener_that_fails_is_opened_again_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.transports.lasting._FIRST_PAUSE", 0.01)

    async def scenario() -> None:
        lines: list[str] = []
        opened: list[Unplugged] = []
        other = await open_station("memory://other")

        async def open_again() -> StationTransport:
            opened.append(Unplugged())
            if len(opened) == 1:
                raise PinholeError("still unplugged")
            return opened[-1]

        listeners = Listeners([LastingStation(Unplugged(), open_again, lines.append), other])
        assert await listeners.receive() == (WayBack(0, "modem"), b"packet")
        assert await asyncio.wait_for(listeners.receive(), 30) == (WayBack(0, "modem"), b"packet")
        await asyncio.wait_for(until(lambda: len(opened) > 2), 30)
        await listeners.send(WayBack(0, "modem"), b"answer")
        assert listeners.unsent == 1
        assert listeners.where(WayBack(0, ("127.0.0.1", 9))) == "127.0.0.1:9 at serial:///dev/modem"
        await listeners.close()
        assert "opening it again" in lines[0]
        assert "is open again" in lines[1]

    asyncio.run(scenario())
