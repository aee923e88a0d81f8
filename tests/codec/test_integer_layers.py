"""Integer layers: the same integers from NumPy, torch and ONNX Runtime, at the edge of what float32 holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shared.codec.entropy.backend import NumpyBackend
from shared.codec.entropy.integer import EXACT, IntegerLayer, Integers, Rescale, run_layer
from shared.codec.entropy.onnx_backend import OnnxBackend
from shared.codec.entropy.program import EntropyProgram
from shared.codec.entropy.torch_backend import TorchBackend
from shared.codec.nets.entropy_parameters import EntropyParameters, EntropyParametersConfig
from shared.errors import PinholeError
from training.entropy_graphs import entropy_graphs
from training.quantise import calibrate, quantise

CONFIG = EntropyParametersConfig(
    latent_channels=24,
    hyper_channels=8,
    slices=(4, 8, 12),
    hyper_decoder_widths=(16, 24),
    channel_context_widths=(24, 16),
)


@pytest.fixture(scope="module")
def model() -> EntropyParameters:
    torch.manual_seed(5)
    return EntropyParameters(CONFIG).eval()


@pytest.fixture(scope="module")
def program(model: EntropyParameters) -> EntropyProgram:
    generator = torch.Generator().manual_seed(6)
    latents = [
        (
            4 * torch.randn(1, 24, 16, 24, generator=generator),
            torch.randn(1, 8, 4, 6, generator=generator).mul(3).round(),
        )
        for _ in range(6)
    ]
    return quantise(model, calibrate(model, latents))


def inputs() -> tuple[Integers, Integers]:
    generator = np.random.default_rng(7)
    # Far beyond the calibrated range, so that every clip is met as well.
    z = generator.integers(-40, 41, (1, 8, 4, 6)).astype(np.int32) * 16
    y = generator.integers(-2000, 2001, (1, 24, 16, 24)).astype(np.int32)
    return z, y


@pytest.mark.parametrize("other", ["onnx", "torch", "channels-last", "no-onednn", "one-thread"])
def test_backends_agree_to_the_bit(program: EntropyProgram, other: str) -> None:
    reference = NumpyBackend(program)
    backend = (
        OnnxBackend(entropy_graphs(program)) if other == "onnx" else TorchBackend(program, other == "channels-last")
    )
    threads = torch.get_num_threads()
    z, y = inputs()
    try:
        torch.set_num_threads(1 if other == "one-thread" else threads)
        with torch.backends.mkldnn.flags(enabled=other != "no-onednn"):
            hyper = backend.hyper(z)
            assert np.array_equal(hyper, reference.hyper(z))
            for i, (start, stop) in enumerate(zip(program.offsets, program.offsets[1:], strict=False)):
                ours = backend.anchor(i, hyper, y[:, :start])
                for a, b in zip(ours, reference.anchor(i, hyper, y[:, :start]), strict=True):
                    assert np.array_equal(a, b)
                mine = backend.nonanchor(i, hyper, ours[2], y[:, start:stop])
                for a, b in zip(mine, reference.nonanchor(i, hyper, ours[2], y[:, start:stop]), strict=True):
                    assert np.array_equal(a, b)
    finally:
        torch.set_num_threads(threads)


def test_quantised_parameters_are_close_to_the_float_ones(model: EntropyParameters, program: EntropyProgram) -> None:
    generator = torch.Generator().manual_seed(8)
    z = torch.randn(1, 8, 4, 6, generator=generator).mul(3).round()
    y = 4 * torch.randn(1, 24, 16, 24, generator=generator)
    with torch.no_grad():
        scales, means = model.anchor(1, model.hyper(z), y[:, :4])
    backend = NumpyBackend(program)
    fixed = np.rint(y.numpy() * 16).astype(np.int32)
    ours = backend.anchor(1, backend.hyper(z.numpy().astype(np.int32) * 16), fixed[:, :4])
    assert np.abs(ours[0] / 256 - scales.numpy()).max() < 0.05
    assert np.abs(ours[1] / 16 - means.numpy()).max() < 0.08


def test_program_survives_its_file(program: EntropyProgram) -> None:
    data = program.to_bytes()
    again = EntropyProgram.from_bytes(data)
    assert again.to_bytes() == data
    z, _ = inputs()
    assert np.array_equal(NumpyBackend(again).hyper(z), NumpyBackend(program).hyper(z))
    with pytest.raises(PinholeError, match="entropy program"):
        EntropyProgram.from_bytes(data[:-40])


def test_transposed_convolution_equals_torch() -> None:
    generator = np.random.default_rng(9)
    weight = generator.integers(-63, 64, (3, 5, 5, 5)).astype(np.int8)
    bias = generator.integers(-1000, 1000, 5).astype(np.int32)
    identity = Rescale(np.array([2] * 5), np.array([1] * 5), -EXACT, EXACT)
    layer = IntegerLayer(weight, bias, identity, stride=2, transposed=True)
    x = generator.integers(-128, 128, (1, 3, 4, 6))
    expected = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(x).double(), torch.from_numpy(weight).double(), torch.from_numpy(bias).double(), 2, 2, 1
    )
    assert np.array_equal(run_layer(layer, x), expected.long().numpy())


def test_sums_beyond_float32_are_refused(program: EntropyProgram) -> None:
    layer = program.hyper[0]
    with pytest.raises(PinholeError, match="not exact"):
        replace(layer, bias=layer.bias + np.int32(EXACT)).check_exact()
    with pytest.raises(PinholeError, match="weights beyond"):
        replace(layer, weight=np.full_like(layer.weight, 64)).check_exact(largest_input=1)
