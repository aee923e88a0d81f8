"""`pinhole receive` with all its flags, but with a stand-in for the decoder."""

import sys
from typing import Any
from unittest import mock

from pinhole import cli
from receiver import receive_command
from receiver.daemon import ReceiverConfig
from receiver.engine import LocalEngine
from tests.receiver.fake_decoder import FakeDecoder


def run_station(
    listen: list[str], archive: str, index: str | None, config: ReceiverConfig, load: object, *rest: Any, **more: Any
) -> bool:
    return real(listen, archive, index, config, lambda: LocalEngine(FakeDecoder()), *rest, **more)


if __name__ == "__main__":
    real = receive_command.run_station
    with mock.patch.object(receive_command, "run_station", run_station):
        status = cli.run(["receive", *sys.argv[1:]])
    sys.exit(status)
