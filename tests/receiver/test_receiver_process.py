import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from receiver.pictures import PictureKey
from shared.link.config import LinkConfig
from tests.receiver.fake_decoder import FakeDecoder, make_layers
from tests.receiver.sending import TestSender, free_port, send, until

PICTURES = 40
SENDER = 0x2A


def start(repository: Path, url: str, archive: Path, *options: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("station_driver.py")), url, str(archive), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("listening on")
    return process


def stored_layers(archive: Path) -> list[tuple[int, int]]:
    database = sqlite3.connect(archive / "index.sqlite")
    rows = database.execute(
        "SELECT sequence, layer FROM layers JOIN pictures ON pictures.id = picture_id ORDER BY sequence, layer"
    ).fetchall()
    database.close()
    return rows


@pytest.mark.slow
def test_every_picture_arrives_exactly_once_over_a_kill_in_mid_transfer(repository: Path, tmp_path: Path) -> None:
    url, archive = f"tcp://127.0.0.1:{free_port()}", tmp_path / "archive"
    processes = [start(repository, url, archive, "0.02")]

    async def transfer() -> None:
        config = LinkConfig(rate=200_000.0, flush_after=0.02, retransmit_after=0.3)
        async with TestSender(sender=SENDER, config=config).connected(url) as sender:
            for sequence in range(PICTURES):
                sender.submit(sequence, make_layers(sequence))
            await until(lambda: len(sender.acknowledged) >= PICTURES // 2)
            processes[0].send_signal(signal.SIGKILL)
            processes[0].wait()
            assert sender.session.backlog_bytes > 0
            assert set(sender.acknowledged) <= set(stored_layers(archive))
            processes.append(start(repository, url, archive, "0.02", "2.0"))
            await until(lambda: sender.session.backlog_bytes == 0)
            assert sorted(sender.acknowledged) == [(s, layer) for s in range(PICTURES) for layer in range(3)]

    try:
        asyncio.run(transfer())
        output, errors = processes[1].communicate(timeout=60)
        assert processes[1].returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert "received 40 pictures" not in output  # the second run stored only what the first had not
    assert stored_layers(archive) == [(sequence, layer) for sequence in range(PICTURES) for layer in range(3)]
    for sequence in range(PICTURES):
        folder = archive / f"{SENDER:08x}" / str(sequence)
        layers = make_layers(sequence)
        assert [(folder / f"layer-{layer}.bin").read_bytes() for layer in range(3)] == layers
        expected = FakeDecoder().decode(layers, seed=PictureKey(SENDER, sequence).seed)
        assert np.array_equal(np.asarray(Image.open(folder / "picture.png")), expected)
        assert np.array_equal(np.asarray(Image.open(folder / "preview.png")), FakeDecoder().preview(layers))
        assert not list(folder.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_station_cleanly_and_the_next_run_goes_on(
    repository: Path, tmp_path: Path, number: signal.Signals
) -> None:
    url, archive = f"tcp://127.0.0.1:{free_port()}", tmp_path / "archive"
    # Decodes of a minute each: the signal comes while one is under way and others wait.
    process = start(repository, url, archive, "60")
    try:
        asyncio.run(send(url, {sequence: make_layers(sequence) for sequence in range(5)}))
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert errors == ""
    assert "received 5 pictures from 1 sender, 15 layers" in output
    assert len(stored_layers(archive)) == 15

    process = start(repository, url, archive, "0", "0.5")
    try:
        asyncio.run(send(url, {5: make_layers(5)}, epoch=2))
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "6 full decodes" in output
