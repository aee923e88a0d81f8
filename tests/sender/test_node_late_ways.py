"""Nodes whose way to the station cannot be opened when they start: a missing device, a wrong address."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sender.intake import Intake
from sender.node import NodeSettings, SenderNode
from sender.rate import RatePolicy
from sender.source import WatchedFolder
from sender.spool import Spool
from shared.errors import PinholeError, UsageError
from shared.transports import open_client
from shared.transports.base import ClientTransport
from tests.sender.fake_encoder import FakeEncoder
from tests.sender.ground import FAST, ground_station
from tests.sender.pictures import write_picture
from tests.sender.test_node import PATIENCE, expected, free_port


def make_node(
    folder: Path, spool: Spool, open_transport: Callable[[], Awaitable[ClientTransport]], lines: list[str]
) -> SenderNode:
    return SenderNode(
        Intake(WatchedFolder(folder, taken=spool.knows_revision), FakeEncoder(), spool, RatePolicy(quality=2)),
        spool,
        replace(FAST),
        open_transport,
        settings=NodeSettings(once=True, poll_every=0.05, silence=0.5),
        report=lines.append,
    )


def test_a_way_that_cannot_be_opened_yet_is_told_once_and_tried_on_while_pictures_are_taken(tmp_path: Path) -> None:
    folder, url = tmp_path / "in", f"tcp://127.0.0.1:{free_port()}"
    for seed in range(3):
        write_picture(folder / f"{seed}.png", seed)
    lines: list[str] = []

    async def late() -> ClientTransport:
        # A modem that is plugged in only when all pictures are in the spool, and then needs one more attempt.
        if node.counters.taken < 3 or len(attempts) < 2:
            attempts.append(1)
            raise PinholeError("no modem")
        return await open_client(url)

    async def scenario() -> None:
        async with ground_station(url) as ground:
            assert (await asyncio.wait_for(node.run(), PATIENCE)).done == 3
        assert sorted(ground.pictures()) == sorted(expected(folder))

    attempts: list[int] = []
    with closing(Spool(tmp_path / "state")) as spool:
        node = make_node(folder, spool, late, lines)
        asyncio.run(scenario())
    assert len([line for line in lines if "no modem" in line]) == 1


def test_a_wrong_address_ends_the_node(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()

    async def wrong() -> ClientTransport:
        raise UsageError("no address")

    with closing(Spool(tmp_path / "state")) as spool:
        write_picture(tmp_path / "in" / "a.png", 1)
        node = make_node(tmp_path / "in", spool, wrong, [])
        with pytest.raises(UsageError, match="no address"):
            asyncio.run(asyncio.wait_for(node.run(), PATIENCE))
