"""Addresses of `pinhole send` and `pinhole receive`: all are checked before anything is begun."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pinhole.cli import run
from sender.link_command import transport_opener
from shared.errors import PinholeError, UsageError
from shared.link_flags import check_addresses
from shared.transports import ClientOptions, StationOptions, TlsOptions, options_for
from shared.transports.bonding.choice import Mode
from tests.transports.mosquitto import Authority

UDP = "udp://127.0.0.1:9"
WRONG = [
    ([UDP, "tcp://127.0.0.1:5555?bad=1"], [], "bad"),
    ([UDP, "memory://ground"], [], "memory://ground"),
    ([UDP, "smoke://signals"], [], "smoke"),
    ([UDP, "serial:///dev/null"], [], "baud"),
    ([UDP, "kiss:///dev/null?baud=9600&mtu=100"], [], "100"),
    ([UDP, "mqtt://broker?keepalive=1"], [], "keepalive"),
    (["udp://127.0.0.1:9?interface=eth0"], [], "interface"),
    (["udp://127.0.0.1:9?mtu=100"], [], "do not fit"),
    ([UDP], ["--tls-ca", "/no/such/file"], "--tls-ca"),
    (["mqtt://me@broker"], ["--tls-ca", "/no/such/file"], "mqtts://"),
    ([UDP], ["--password-file", "/no/such/file"], "--password-file"),
    (["mqtt://broker"], ["--password-file", "/no/such/file"], "USER@"),
]
COMMANDS = {
    "send": (["--source", "pictures", "--budget", "9.6kbps", "--insecure"], "--to"),
    "receive": (["--archive", "archive", "--insecure"], "--listen"),
}


def words(command: str, urls: Sequence[str]) -> list[str]:
    arguments, flag = COMMANDS[command]
    return [command, *arguments, *(word for url in urls for word in (flag, url)), "--state", "state"]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run; there are the sender's pictures only, and nothing that could be loaded."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("begun before all addresses were read")

    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sender.send_command.open_encoder", never)
    monkeypatch.setattr("receiver.receive_command.run_station", never)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("urls", "flags", "complaint"), WRONG)
def test_wrong_addresses_and_flags_for_none_of_them_are_wrong_usage(
    command: str, urls: list[str], flags: list[str], complaint: str, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words(command, urls), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert complaint in error
    assert [left.name for left in empty.iterdir()] == ["pictures"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_not_there_is_named_before_anything_is_begun(
    command: str, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in (["--tls-ca", "no-such-file"], ["--password-file", "no-such-file"]):
        assert run([*words(command, [UDP, "mqtts://me@broker"]), *flags]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "no-such-file cannot be read" in error
    assert [left.name for left in empty.iterdir()] == ["pictures"]


def test_certificates_and_passwords_go_to_the_brokers_that_they_are_for(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    tls = TlsOptions(Authority(tmp_path, "authority").file)
    options = ClientOptions(tls=tls, password_file=password)
    urls = ["mqtts://me@one", "mqtts://two", "mqtt://me@three", "mqtt://four", UDP, "udp://[nonsense"]
    given = [options_for(url, options) for url in urls]
    none = TlsOptions()
    assert [one.tls for one in given] == [tls, tls, none, none, none, none]
    assert [one.password_file for one in given] == [password, None, password, None, None, None]
    check_addresses(urls[:5], options)
    check_addresses(urls[:5], StationOptions(tls=tls, password_file=password))
    opener = transport_opener(urls[:5], [None] * 5, Mode.BOND, options, simplex=False)
    links = opener.args[0]  # type: ignore[attr-defined]
    assert [link.open.args[1].tls for link in links] == [one.tls for one in given[:5]]
    with pytest.raises(UsageError, match="not an address"):
        check_addresses(["mqtts://me@one", "udp://[nonsense"], options)


def test_what_is_wrong_with_a_file_or_a_size_is_told(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o644)
    with pytest.raises(PinholeError, match="chmod 600"):
        check_addresses(["mqtt://me@broker"], ClientOptions(password_file=password))
    with pytest.raises(UsageError, match="too large"):
        check_addresses(["tcp://127.0.0.1:9"], ClientOptions(packet_bytes=200_000))
