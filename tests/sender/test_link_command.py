"""The link's flags of ``pinhole send``."""

from contextlib import closing
from pathlib import Path

import pytest

from sender.link_command import Seals, link_config, link_rates, session_rate, transport_opener
from sender.spool import Spool
from shared.errors import PinholeError, UsageError
from shared.keyfiles import key_path, write_secret
from shared.link.keys import ListedSender, Role, SecretKey
from shared.link.sealed_gate import SealedGate
from shared.link_flags import refuse_half_sealed, tls_options
from shared.transports import ClientOptions
from shared.transports.bonding.choice import Mode


def config(**changes: object) -> object:
    usual = {"rate": 9600.0, "packet_bytes": 400, "parity": "auto", "interleave": 4, "simplex": False, "repeats": 1}
    return link_config(**{**usual, **changes})  # type: ignore[arg-type]


def test_parity_follows_the_link_unless_it_is_given() -> None:
    assert config().adapt  # type: ignore[attr-defined]
    assert not config(parity="0.5").adapt  # type: ignore[attr-defined]
    assert config(parity="0.5").base_parity == 1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("changes", [{"parity": "much"}, {"parity": "2"}, {"parity": "nan"}, {"latency": 0.0}])
def test_wrong_settings_are_wrong_usage(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        config(**changes)


def test_each_link_has_its_budget() -> None:
    assert link_rates(["a", "b"], ["9.6kbps"]) == [9600.0, 9600.0]
    assert link_rates(["a", "b"], ["64kbps", "unlimited"]) == [64000.0, None]
    with pytest.raises(UsageError, match="one for each"):
        link_rates(["a", "b"], ["1kbps", "2kbps", "3kbps"])
    assert session_rate([64000.0, 9600.0], Mode.BOND) == 73600.0
    assert session_rate([64000.0, 9600.0], Mode.FALLBACK) == 64000.0
    assert session_rate([64000.0, None], Mode.BOND) is None


def test_seals_need_both_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    ground, drone = SecretKey.generate(Role.STATION), SecretKey.generate(Role.SENDER)
    write_secret(key_path("drone"), drone)
    with pytest.raises(UsageError, match="--station-key is missing"):
        Seals.find("drone", None)
    with pytest.raises(UsageError, match="--key is missing"):
        Seals.find(None, ground.public.text)
    with pytest.raises(PinholeError, match="station"):
        Seals.find("drone", drone.public.text)
    seals = Seals.find("drone", ground.public.text)
    with closing(Spool(tmp_path / "state")) as spool:
        envelope = seals.envelope(spool)
        gate = SealedGate([ground], [ListedSender("drone", drone.public)])
        admitted = gate.admit(envelope.hello(1200)[0])
        assert admitted is not None
        assert admitted.envelope.sender == spool.sender


def test_sessions_only_go_on(tmp_path: Path) -> None:
    sessions = []
    for now in (1.8e9, 1.8e9 + 5, 1.0e6, 0.0, 1.9e9):
        with closing(Spool(tmp_path, clock=lambda now=now: now)) as spool:  # type: ignore[misc]
            sessions.append(spool.session)
    assert sessions == sorted(set(sessions)), "also where the clock was set back"
    assert sessions[1] - sessions[0] == 500
    assert sessions[3] == sessions[1] + 2


@pytest.mark.parametrize(("insecure", "keys"), [(True, True), (False, False)])
def test_either_seals_or_none(insecure: bool, keys: bool) -> None:
    with pytest.raises(UsageError, match="--insecure"):
        refuse_half_sealed(insecure=insecure, keys=keys, how="give keys")
    refuse_half_sealed(insecure=not insecure, keys=keys, how="give keys")


def test_a_certificate_needs_its_key() -> None:
    assert tls_options(Path("ca"), None, None).ca_file == Path("ca")
    with pytest.raises(UsageError, match="--tls-key"):
        tls_options(None, Path("cert"), None)


def test_one_link_is_opened_as_it_is() -> None:
    opener = transport_opener(["memory://x"], [9600.0], Mode.FALLBACK, ClientOptions(), simplex=False)
    (url, options) = opener.args  # type: ignore[attr-defined]
    assert (url, options.rate) == ("memory://x", 9600.0)
