"""The two ends of a link as their operators have them: keys, folders, and commands with flags."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from shared import allowlist
from shared.keyfiles import write_secret
from shared.link.keys import Role, SecretKey
from tests.endtoend.running import REPOSITORY, Launch, Running
from tests.sender.pictures import write_picture

_CAPTURED = 1_700_000_000
_DRIVERS = Path(__file__).parent


class Ends:
    """A sender and a station, in folders of their own.

    Args:
        folder: for all of it.
        budget: of the sender, as its flag takes it.
        real: with real encoder and decoder, and the product's own patience.
    """

    def __init__(self, folder: Path, *, budget: str = "64kbps", real: bool = False) -> None:
        self.source = folder / "pictures"
        self.spool = folder / "spool"
        self.archive = folder / "archive"
        self.sender_keys = folder / "sender-keys"
        self.station_keys = folder / "station-keys"
        self.logs = folder / "logs"
        for made in (self.source, self.sender_keys, self.station_keys, self.logs):
            made.mkdir()
        self.state = folder / "state"
        self.pictures = 0
        self.running: list[Running] = []
        self._budget = budget
        self._real = real
        self.sender_key = "drone7"
        self.station_key = "ground"
        self.known_station = "ground.pub"

    def make_keys(self) -> None:
        """What `pinhole keys` would do at both ends."""
        secrets = {role: SecretKey.generate(role, made=_CAPTURED) for role in Role}
        write_secret(self.sender_keys / "drone7.key", secrets[Role.SENDER])
        write_secret(self.station_keys / "ground.key", secrets[Role.STATION])
        (self.sender_keys / "ground.pub").write_text(secrets[Role.STATION].public.text)
        (self.station_keys / "drone7.pub").write_text(secrets[Role.SENDER].public.text)
        allowlist.allow(self.station_keys / "allowed", "drone7", secrets[Role.SENDER].public)

    def take_pictures(self, count: int) -> None:
        """More pictures appear in the sender's folder."""
        for number in range(self.pictures, self.pictures + count):
            # Under a hidden name first, as whoever copies files into a watched folder should.
            hidden = write_picture(self.source / f".{number}.png", number, modified=_CAPTURED + number)
            hidden.rename(self.source / f"{number:04d}.png")
        self.pictures += count

    def start_sender(
        self, to: str | Sequence[str], *flags: str, launch: Launch = subprocess.Popen, name: str = "sender"
    ) -> Running:
        """Start the sender, with its present key."""
        addresses = [to] if isinstance(to, str) else list(to)
        words = [word for address in addresses for word in ("--to", address)]
        words += ["--source", str(self.source), "--budget", self._budget, "--state", str(self.spool), "--quality", "3"]
        words += ["--key", str(self.sender_keys / f"{self.sender_key}.key")]
        words += ["--station-key", str(self.sender_keys / self.known_station), *flags]
        return self._start("send", words, launch, name)

    def start_relay(self, listen: str, to: str, name: str) -> Running:
        """Start `pinhole relay`; returns when it listens."""
        relay = self._run(["-m", "pinhole", "relay", "--listen", listen, "--to", to], subprocess.Popen, name)
        relay.wait_for("relaying from")
        return relay

    def start_station(self, listen: str | Sequence[str], *flags: str, launch: Launch = subprocess.Popen) -> Running:
        """Start the station, with its present key; returns when it listens."""
        addresses = [listen] if isinstance(listen, str) else list(listen)
        words = [word for address in addresses for word in ("--listen", address)]
        words += ["--archive", str(self.archive), "--state", str(self.state), "--settle", "0.5"]
        words += ["--key", str(self.station_keys / f"{self.station_key}.key")]
        words += ["--allowed", str(self.station_keys / "allowed"), *flags]
        station = self._start("receive", words, launch, "station")
        station.wait_for("listening on")
        return station

    def kill(self, *victims: Running) -> None:
        """SIGKILL, for processes that still run."""
        for victim in victims:
            assert victim.process.poll() is None, victim.said
            victim.kill()

    def kill_all(self) -> None:
        """At the end of a test, whatever has become of it."""
        for process in self.running:
            process.kill()

    def log_of(self, name: str) -> str:
        """What all processes of a name have printed."""
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def _start(self, command: str, words: list[str], launch: Launch, name: str) -> Running:
        program = ["-m", "pinhole", command] if self._real else [str(_DRIVERS / f"{command}_driver.py")]
        return self._run([*program, *words], launch, name)

    def _run(self, words: list[str], launch: Launch, name: str) -> Running:
        env = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(self.logs)}
        process = Running([sys.executable, *words], self.logs / f"{name}.log", env, launch)
        self.running.append(process)
        return process
