"""Sealed pictures over a guarded Mosquitto: broker, station and sender are killed in turn, in mid-transfer."""

from pathlib import Path

import pytest

from shared.keyfiles import load_secret
from shared.transports.mqtt.topics import DEFAULT_PREFIX
from tests.endtoend.books import archived_layers, check_books, end_when_decoded, until_all_archived, until_archived
from tests.endtoend.ends import Ends
from tests.transports.mosquitto import Authority, Mosquitto

# The one that docs/security.md recommends.
ACCESS = """
pattern write {prefix}/v2/up/+/%u/+
pattern read {prefix}/v2/down/%u
pattern write {prefix}/v2/state/sender/%u/+

user ground
topic read {prefix}/v2/up/#
topic read {prefix}/v2/state/#
topic write {prefix}/v2/down/+
topic write {prefix}/v2/state/station/{station:08x}/+
"""


class Guarded:
    """A broker with TLS, client certificates, users with passwords and an access list; and the flags that it takes."""

    def __init__(self, folder: Path, ends: Ends) -> None:
        self._folder = folder
        self._authority = Authority(folder, "authority")
        sender = load_secret(ends.sender_keys / "drone7.key").identity
        station = load_secret(ends.station_keys / "ground.key").identity
        self.sender, self.station = f"{sender:08x}", "ground"
        users = {user: f"password of {user}" for user in (self.sender, self.station)}
        for user, password in users.items():
            file = folder / f"{user}.password"
            file.write_text(f"{password}\n")
            file.chmod(0o600)
        access = ACCESS.format(prefix=DEFAULT_PREFIX, station=station)
        self.broker = Mosquitto(folder, authority=self._authority, users=users, acl=access)

    def url(self, user: str) -> str:
        return self.broker.url.replace("://", f"://{user}@")

    def flags(self, user: str) -> list[str]:
        signed = self._authority.sign(f"client-{user}")
        words = ["--tls-ca", self._authority.file, "--tls-cert", signed.certificate, "--tls-key", signed.key]
        return [str(word) for word in [*words, "--password-file", self._folder / f"{user}.password"]]


@pytest.mark.slow
def test_every_picture_arrives_once_whoever_is_killed(ends: Ends, tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, ends)
    with guarded.broker as broker:
        listen, to = guarded.url(guarded.station), guarded.url(guarded.sender)
        of_station, of_sender = guarded.flags(guarded.station), guarded.flags(guarded.sender)
        ends.take_pictures(22)
        station = ends.start_station(listen, *of_station)
        sender = ends.start_sender(to, *of_sender)
        for victim in ["broker", "station", "sender", "station", "broker", "sender"]:
            until_archived(ends, archived_layers(ends) + 6)
            if victim == "broker":
                broker.kill()
            else:
                ends.kill(station if victim == "station" else sender)
            assert archived_layers(ends) < 3 * ends.pictures
            ends.take_pictures(2)
            if victim == "broker":
                broker.start()
            elif victim == "station":
                station = ends.start_station(listen, *of_station)
            else:
                sender = ends.start_sender(to, *of_sender)
        until_all_archived(ends)
        # All at once, with the last acknowledgements still on their way.
        ends.kill(sender, station)
        broker.kill()
        ends.take_pictures(4)
        broker.start()
        station = ends.start_station(listen, *of_station)
        ends.start_sender(to, *of_sender, "--once").ended()
        end_when_decoded(ends, station)
    check_books(ends)
