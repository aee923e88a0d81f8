"""Runs a real node with the fake encoder as a process of its own: SOURCE STATE URL RATE [once]."""

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from sender.node import NodeSettings
from sender.rate import RatePolicy
from sender.send_command import open_source, send_pictures
from sender.spool import Spool
from shared.transports import open_client
from tests.sender.fake_encoder import FakeEncoder
from tests.sender.ground import FAST


def main(source: str, state: str, url: str, rate: str, *flags: str) -> None:
    with closing(Spool(Path(state))) as spool:
        send_pictures(
            open_source(source, spool),
            FakeEncoder(),
            spool,
            replace(FAST, rate=float(rate)),
            RatePolicy(quality=2),
            lambda: open_client(url),
            settings=NodeSettings(once="once" in flags, poll_every=0.1),
            console=Console(stderr=True),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
