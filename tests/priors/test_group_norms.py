from __future__ import annotations

import torch
from torch import nn

from csd_nerf.priors.group_norms import normalised_by, pooled_statistics


def model():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 6, 1), nn.GroupNorm(2, 6)
    )
    for norm in (layers[1], layers[4]):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    return layers.requires_grad_(False)


def test_tiles_come_out_as_parts_of_the_whole():
    """Where layers look at single pixels, a picture's tiles have the whole picture's output."""
    layers, picture = model(), torch.randn(1, 3, 8, 12) * torch.linspace(0.1, 3, 12)
    tiles = torch.cat(picture.split(4, dim=3))
    whole = layers(picture)
    assert not torch.allclose(layers(tiles[:1]), whole[..., :4], atol=0.1)
    statistics = pooled_statistics(layers, lambda: layers(tiles))
    with normalised_by(statistics):
        assert torch.allclose(layers(tiles[:1]), whole[..., :4], atol=1e-5)
        assert torch.allclose(layers(tiles[2:]), whole[..., 8:], atol=1e-5)
    assert torch.equal(layers(picture), whole)


def test_a_constant_sample_stays_finite():
    layers = model()
    statistics = pooled_statistics(layers, lambda: layers(torch.zeros(2, 3, 4, 4)))
    with normalised_by(statistics):
        assert layers(torch.randn(1, 3, 4, 4)).isfinite().all()
