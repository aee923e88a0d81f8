"""Outputs of the networks at tiny widths with weights and inputs that follow from their names.

``python -m tests.nets.test_nets_regression --regenerate`` writes them anew after an intended change.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.nets.golden_vectors import fill_plainly, plain_numbers
from tests.nets.test_official_loaders import CONTROL, LFGCM
from training.official import build_control, build_lfgcm, spaced_ddpm

FILE = Path(__file__).parents[1] / "data" / "nets.npz"
TIE_MARGIN = 2e-4
"""No value to be rounded may lie closer to a tie, so that another machine's last bits cannot turn it."""


@torch.no_grad()
def outputs() -> dict[str, NDArray[np.float32]]:
    result: dict[str, Tensor] = {}
    model = build_lfgcm(LFGCM).eval()
    fill_plainly(model, "regression/lfgcm")
    picture = plain_numbers("regression/picture", (1, 3, 64, 128)).add(1).div(2)
    guidance = plain_numbers("regression/guidance", (1, 4, 8, 16)).mul(3)
    y = model.analysis(picture, guidance).mul(1.5)
    z = model.hyper_analysis(y, guidance).mul(2)
    z_hat = model.prior.quantise(z)
    hyper = model.entropy_parameters.hyper(z_hat)
    y_hat, scales, means = model.entropy_parameters.rate_terms(y, hyper)
    content = model.decode(y_hat, z_hat)
    result |= {"y": y, "z": z, "z_hat": z_hat, "hyper": hyper, "y_hat": y_hat, "scales": scales, "means": means}
    result |= {"content": content, "z_likelihood": model.prior.likelihood(z_hat)}
    for residual in (z - model.prior.medians, y - means):
        assert float((residual - residual.floor() - 0.5).abs().min()) > TIE_MARGIN
        assert float(residual.abs().max()) > 1.5

    unet, control = build_control(CONTROL)
    fill_plainly(unet.eval(), "regression/unet")
    fill_plainly(control.eval(), "regression/control")
    context = plain_numbers("regression/context", (1, 3, 6))
    start = plain_numbers("regression/start", (1, 4, 8, 16))
    noises = plain_numbers("regression/noises", (4, 1, 4, 8, 16))
    result["eps"] = control(unet, start, torch.tensor([321]), context, content)
    result["eps_half"] = control(unet, start, torch.tensor([321]), context, content, strength=0.5)
    ddpm = spaced_ddpm(4)
    result["x_0"] = ddpm.sample(lambda x, t, c: control(unet, x, t, context, c), content, start, noises)
    return {name: value.numpy() for name, value in result.items()}


def test_outputs_are_those_recorded() -> None:
    actual = outputs()
    with np.load(FILE) as recorded:
        assert set(recorded) == set(actual)
        for name, expected in recorded.items():
            largest = float(np.abs(expected).max())
            np.testing.assert_allclose(actual[name], expected, rtol=1e-4, atol=1e-4 * largest, err_msg=name)
    assert FILE.stat().st_size < 200_000


if __name__ == "__main__" and "--regenerate" in sys.argv:
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **outputs())
