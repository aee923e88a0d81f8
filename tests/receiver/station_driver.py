"""Runs `pinhole receive`'s station with the fake decoder: station_driver.py URL ARCHIVE SECONDS [UNTIL_IDLE]."""

import os
import sys

from receiver.daemon import ReceiverConfig
from receiver.engine import LocalEngine
from receiver.progress import ConsoleReporter
from receiver.receive_command import run_station
from tests.receiver.fake_decoder import FakeDecoder

if __name__ == "__main__":
    url, archive, seconds = sys.argv[1:4]
    idle = float(sys.argv[4]) if len(sys.argv) > 4 else None
    config = ReceiverConfig(settle=0.5, until_idle=idle, retry_after=0.2, close_timeout=0.5)
    decoder = FakeDecoder(seconds=float(seconds))
    if not run_station([url], archive, None, config, lambda: LocalEngine(decoder), ConsoleReporter()):
        sys.stdout.flush()
        os._exit(0)
