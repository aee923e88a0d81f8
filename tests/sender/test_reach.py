"""The reach that is worked out from a manifest is the one that the networks have, seen in their gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sender.reach import Reach, sender_reach
from shared.codec.bundle import find_bundle
from shared.codec.nets.autoencoder import AutoencoderConfig, LatentEncoder
from shared.codec.nets.entropy_parameters import EntropyParametersConfig
from shared.codec.nets.lfgcm import Analysis, HyperAnalysis, LfgcmConfig
from shared.codec.nets.pocket import PocketAnalysis, PocketConfig, PocketHyperAnalysis
from shared.errors import PinholeError


def seen(module: nn.Module, inputs: dict[str, tuple[int, int]], core: int, step: int, size: int) -> int:
    """Pixels above or below a tile in the middle from which a gradient comes.

    Args:
        module: the network.
        inputs: channels and pixels for each position, of every input.
        core: height of the tile in pixels.
        step: pixels for each position of the output.
        size: height of the picture in pixels.
    """
    torch.manual_seed(0)
    for parameter in module.parameters():
        # Positive weights cannot cancel each other.
        nn.init.uniform_(parameter, 0.1, 1.0)
    values: list[Tensor] = [
        torch.rand(1, channels, size // span, 64 // span, dtype=torch.float64, requires_grad=True)
        for channels, span in inputs.values()
    ]
    start = (size - core) // 2
    module.double()(*values)[:, :, start // step : (start + core) // step].sum().backward()
    farthest = 0
    for value, (_, span) in zip(values, inputs.values(), strict=True):
        assert value.grad is not None
        rows = torch.nonzero(value.grad.abs().sum((0, 1, 3)))[:, 0]
        assert int(rows[0]) > 0, "the picture is too small to see the reach"
        farthest = max(farthest, start - int(rows[0]) * span, (int(rows[-1]) + 1) * span - start - core)
    return farthest


def test_pocket_networks_reach_as_far_as_their_manifest_says() -> None:
    autoencoder = AutoencoderConfig(2, (3, 4), (1, 2), (4, 4, 4), (1, 1, 1))
    config = PocketConfig(
        2, EntropyParametersConfig(4, 3, (2, 2), (3, 3), channel_context_widths=(3, 3)), (4, 5), (2, 1), 4
    )
    networks: dict[str, Any] = {
        "autoencoder": {"encoder_depths": [1, 2]},
        "compression": {"analysis_depths": [2, 1]},
    }
    reach = sender_reach({"layout": {}, "networks": networks})
    assert reach == Reach(4 + 16, 16 + 16, 32 + 64 + 64)
    guidance, picture, y = (2, 8), (3, 1), (4, 16)
    assert seen(LatentEncoder(autoencoder), {"picture": picture}, 64, 8, 320) == reach.guidance
    assert seen(PocketAnalysis(config), {"picture": picture, "guidance": guidance}, 64, 16, 320) == reach.analysis
    assert seen(PocketHyperAnalysis(config), {"y": y, "guidance": guidance}, 64, 64, 576) == reach.hyper_analysis


@pytest.mark.parametrize(("fusion", "kernel"), [("sft", 3), ("addition", 3), ("sft", 5)])
def test_official_networks_reach_as_far_as_their_manifest_says(fusion: str, kernel: int) -> None:
    config = LfgcmConfig(3, 4, (2, 2, 2, 2), 2, 4, 2, kernel, (2, 2), fusion)
    lfgcm = {"fusion": fusion, "sft_kernel": kernel}
    reach = sender_reach({"layout": {}, "networks": {"family": "diffeic", "lfgcm": lfgcm}})
    assert reach.guidance is None
    assert reach.analysis is not None
    assert reach.hyper_analysis is not None
    analysis = seen(Analysis(config), {"picture": (3, 1), "guidance": (4, 8)}, 64, 16, 832)
    hyper_analysis = seen(HyperAnalysis(config), {"y": (4, 16), "guidance": (4, 8)}, 64, 64, 1600)
    # Strides leave some positions of the margin unused on one side; a margin is whole blocks of 64 pixels anyway.
    assert reach.analysis - 16 <= analysis <= reach.analysis
    assert reach.hyper_analysis - 16 <= hyper_analysis <= reach.hyper_analysis


def test_the_shipped_bundle_needs_three_blocks_at_most() -> None:
    assert sender_reach(find_bundle("pocket").manifest) == Reach(48, 88, 160)


def test_a_manifest_may_say_its_reach_itself() -> None:
    layout = {"reach": {"guidance": None, "analysis": 200, "hyper_analysis": 64}}
    assert sender_reach({"layout": layout}) == Reach(None, 200, 64)
    assert sender_reach({"layout": {}, "networks": {"family": "other"}}) == Reach(None, None, None)
    cross = {"family": "diffeic", "lfgcm": {"fusion": "cross-attention", "sft_kernel": 3}}
    assert sender_reach({"layout": {}, "networks": cross}) == Reach(None, None, None)
    with pytest.raises(PinholeError, match="manifest does not describe"):
        sender_reach({"name": "x", "layout": {}, "networks": {}})
