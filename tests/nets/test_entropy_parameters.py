import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec.nets.checkerboard import anchor_mask, keep_anchors, merge, squeeze, unsqueeze
from shared.codec.nets.entropy_parameters import EntropyParameters, EntropyParametersConfig
from shared.codec.nets.factorised_prior import FactorisedPrior
from shared.codec.nets.likelihood import gaussian_likelihood, lower_bound, round_straight_through
from shared.errors import PinholeError

TINY = EntropyParametersConfig(
    latent_channels=12, hyper_channels=6, slices=(2, 4, 6), context_kernel=3, channel_context_widths=(10, 8)
)


def prior_pair(channels: int = 7) -> tuple[FactorisedPrior, EntropyBottleneck]:
    torch.manual_seed(3)
    theirs = EntropyBottleneck(channels)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ours = FactorisedPrior(channels)
    state = theirs.state_dict()
    assert set(ours.state_dict()) <= set(state)
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})
    return ours, theirs


def test_factorised_prior_agrees_with_compressai() -> None:
    ours, theirs = prior_pair()
    values = 6 * torch.randn(2, 7, 5, 3, requires_grad=True)
    other = values.detach().clone().requires_grad_()
    quantised, likelihood = ours.eval()(values)
    expected_quantised, expected = theirs.eval()(other)
    torch.testing.assert_close(quantised, expected_quantised)
    torch.testing.assert_close(likelihood, expected)
    torch.testing.assert_close(ours.medians.flatten(), theirs._get_medians().detach().flatten())
    torch.testing.assert_close(ours.auxiliary_loss(), theirs.loss())
    (gradient,) = torch.autograd.grad(ours.auxiliary_loss(), ours.quantiles)
    (expected_gradient,) = torch.autograd.grad(theirs.loss(), theirs.quantiles)
    torch.testing.assert_close(gradient, expected_gradient)


def test_factorised_prior_cdf_is_what_the_likelihood_differences() -> None:
    ours, _ = prior_pair()
    points = torch.linspace(-20, 20, 41).repeat(7, 1)
    cdf = ours.cdf(points)
    assert cdf.dtype == torch.float64
    assert (cdf.diff() > 0).all()
    likelihood = ours.likelihood((points[:, :-1] + 0.5).reshape(1, 7, 5, 8)).reshape(7, 40)
    torch.testing.assert_close(cdf.diff().float(), likelihood, atol=1e-6, rtol=1e-4)


def test_factorised_prior_starts_as_compressai_does() -> None:
    ours, theirs = FactorisedPrior(4).state_dict(), EntropyBottleneck(4).state_dict()
    for name, value in ours.items():
        assert value.shape == theirs[name].shape
        if not name.startswith("biases"):
            torch.testing.assert_close(value, theirs[name])


def test_likelihoods_stay_float32_under_autocast() -> None:
    ours, _ = prior_pair()
    values = torch.randn(1, 7, 4, 4)
    plain = ours.likelihood(values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours.likelihood(values), plain, atol=0, rtol=0)
        assert gaussian_likelihood(values.bfloat16(), torch.ones_like(values)).dtype == torch.float32


def test_gaussian_likelihood_agrees_with_compressai() -> None:
    torch.manual_seed(0)
    values, means = 5 * torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)
    scales = torch.exp(torch.randn(2, 6, 4, 4) * 2)
    ours = scales.clone().requires_grad_()
    theirs = scales.clone().requires_grad_()
    module = GaussianConditional([0.11, 256.0]).eval()
    quantised, expected = module(values, theirs, means)
    likelihood = gaussian_likelihood(quantised - means, ours)
    torch.testing.assert_close(likelihood, expected)
    gradient = torch.autograd.grad(-likelihood.log2().sum(), ours)
    torch.testing.assert_close(gradient, torch.autograd.grad(-expected.log2().sum(), theirs))


def test_lower_bound_lets_gradients_lead_upwards_only() -> None:
    values = torch.tensor([-1.0, 2.0], requires_grad=True)
    (down,) = torch.autograd.grad(lower_bound(values, 0.5).sum(), values)
    (up,) = torch.autograd.grad(-lower_bound(values, 0.5).sum(), values)
    assert down.tolist() == [0.0, 1.0]
    assert up.tolist() == [-1.0, -1.0]


def test_round_is_half_to_even_and_straight_through() -> None:
    values = torch.tensor([0.5, 1.5, -2.5, 0.7], requires_grad=True)
    rounded = round_straight_through(values)
    assert rounded.tolist() == [0.0, 2.0, -2.0, 1.0]
    (gradient,) = torch.autograd.grad((3 * rounded).sum(), values)
    assert gradient.tolist() == [3.0] * 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3))
def test_squeeze_and_unsqueeze_are_inverse(height: int, half: int, channels: int) -> None:
    values = torch.randn(2, channels, height, 2 * half)
    anchors, nonanchors = squeeze(values)
    assert torch.equal(unsqueeze(anchors, nonanchors), values)
    mask = anchor_mask(height, 2 * half)
    assert torch.equal(anchors.flatten(-2), values[..., mask])
    assert torch.equal(nonanchors.flatten(-2), values[..., ~mask])
    assert torch.equal(merge(values, torch.zeros_like(values)), keep_anchors(values))


def test_anchors_are_where_row_plus_column_is_odd() -> None:
    assert anchor_mask(2, 4).tolist() == [[False, True, False, True], [True, False, True, False]]
    with pytest.raises(ValueError, match="odd"):
        squeeze(torch.zeros(1, 1, 2, 3))


def test_every_symbol_depends_only_on_those_coded_before_it() -> None:
    torch.manual_seed(1)
    net = EntropyParameters(TINY).eval()
    hyper = net.hyper(torch.randn(1, 6, 2, 3))
    assert hyper.shape == (1, 24, 8, 12)
    y = 4 * torch.randn(1, 12, 8, 12)
    y_hat, scales, means = net(y, hyper)
    torch.testing.assert_close((y_hat - means).round(), y_hat - means, atol=1e-5, rtol=0)
    assert (y_hat - y).abs().max() <= 0.5 + 1e-5

    # Decode: from the symbols alone, in coding order, the same values come out.
    symbols = torch.round(y - means)
    mask = anchor_mask(8, 12)
    decoded: list[torch.Tensor] = []
    for i, part in enumerate(torch.split(symbols, list(TINY.slices), 1)):
        anchor_scales, anchor_means = net.anchor(i, hyper, decoded)
        anchors = torch.where(mask, part + anchor_means, 0)
        other_scales, other_means = net.nonanchor(i, hyper, anchors, torch.cat(decoded, 1) if decoded else None)
        decoded.append(torch.where(mask, anchors, part + other_means))
        start, end = TINY.offsets[i : i + 2]
        torch.testing.assert_close(merge(anchor_scales, other_scales), scales[:, start:end])
    torch.testing.assert_close(torch.cat(decoded, 1), y_hat)


def test_rate_terms_pass_gradients_to_latent_and_hyper_latent() -> None:
    torch.manual_seed(2)
    net = EntropyParameters(TINY)
    z = torch.randn(2, 6, 2, 2, requires_grad=True)
    y = torch.randn(2, 12, 8, 8, requires_grad=True)
    y_hat, scales, means = net.rate_terms(y, net.hyper(z))
    rate = -gaussian_likelihood(y - means, scales).log2().sum() + y_hat.square().sum()
    for gradient in torch.autograd.grad(rate, [y, z, *net.parameters()]):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_rate_terms_keep_their_precision_under_autocast() -> None:
    torch.manual_seed(2)
    net = EntropyParameters(TINY)
    y = 100 * torch.randn(1, 12, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_hat, _, means = net.rate_terms(y, net.hyper(torch.randn(1, 6, 2, 2)))
    assert y_hat.dtype == means.dtype == torch.float32
    assert (y_hat - y).abs().max() <= 0.5 + 1e-4


def test_a_config_whose_slices_do_not_fit_is_refused() -> None:
    with pytest.raises(PinholeError, match="do not sum"):
        EntropyParametersConfig(latent_channels=12, hyper_channels=6, slices=(2, 4))
    with pytest.raises(PinholeError, match="even"):
        EntropyParametersConfig(latent_channels=2, hyper_channels=6, slices=(2,), context_kernel=4)
    with pytest.raises(ValueError, match="needs the decoded slices"):
        EntropyParameters(TINY).anchor(1, torch.zeros(1, 24, 4, 4))
