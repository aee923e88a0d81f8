"""`pinhole send` with all its flags, but with a stand-in for the encoder, and with less patience than a radio needs."""

import sys
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

from pinhole import cli
from sender import link_command, send_command
from sender.node import NodeSettings
from shared.link.config import LinkConfig
from shared.transports.bonding.client import BondedClient
from tests.endtoend.stand_ins import CheckedEncoder


def brisk(**flags: Any) -> LinkConfig:
    return replace(link_command.link_config(**flags), flush_after=0.1, retransmit_after=0.5)


if __name__ == "__main__":
    with (
        mock.patch.object(send_command, "open_encoder", return_value=CheckedEncoder()),
        mock.patch.object(send_command, "link_config", brisk),
        mock.patch.object(send_command, "NodeSettings", partial(NodeSettings, poll_every=0.1)),
        mock.patch.object(BondedClient, "open", staticmethod(partial(BondedClient.open, patience=2.0))),
    ):
        status = cli.run(["send", *sys.argv[1:]])
    sys.exit(status)
