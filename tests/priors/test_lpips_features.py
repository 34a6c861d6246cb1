"""LPIPS as a squared distance of features, against the lpips package."""

from __future__ import annotations

import warnings

import pytest
import torch

from csd_nerf.core.kernels import rbf_kernel
from csd_nerf.priors.lpips import lpips_features


@pytest.fixture(scope="module")
def network():
    """LPIPS with random weights, those of its differences not negative, as the published ones."""
    import lpips

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    for linear in net.lins:
        linear.model[-1].weight.data.abs_()
    return net.eval().requires_grad_(False)


def images(n):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_squared_distance_of_features_is_lpips(network):
    views = images(4)
    features = lpips_features(network)(views.flatten(1))
    for i in range(4):
        for j in range(4):
            ours = float((features[i] - features[j]).square().sum())
            theirs = float(network(views[i : i + 1], views[j : j + 1], normalize=True))
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)


def test_the_kernel_has_lpips_as_its_distance_and_a_gradient(network):
    views = images(3)
    kernel = rbf_kernel(views.flatten(1), lpips_features(network), exponent=2)
    distance = {
        (i, j): float(network(views[i : i + 1], views[j : j + 1], normalize=True))
        for i in range(3)
        for j in range(3)
        if i != j
    }
    one, two, *_ = distance.items()
    # Bandwidths cancel in ratios of logarithms: -log k is proportional to LPIPS squared.
    ratio = float(kernel.values[one[0]].log() / kernel.values[two[0]].log())
    assert ratio == pytest.approx((one[1] / two[1]) ** 2, rel=1e-2)
    assert float(kernel.gradient.abs().max()) > 0
    assert bool(kernel.gradient.isfinite().all())
