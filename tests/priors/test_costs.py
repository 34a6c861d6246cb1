"""Counted operations and live bytes, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import conv2d, linear, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from csd_nerf import priors
from csd_nerf.priors.costs import LiveBytes, count
from csd_nerf.priors.prior_costs import prior_costs

DEVICES = ("cpu", "meta")


@pytest.mark.parametrize("device", DEVICES)
def test_a_linear_layer(device):
    x, w, b = (torch.empty(shape, device=device) for shape in ((4, 64), (32, 64), (32,)))
    cost = count(lambda: linear(x, w, b), outside=[x, w, b])
    assert (cost.flops, cost.peak_bytes) == (2 * 4 * 64 * 32, 4 * 32 * 4)


@pytest.mark.parametrize("device", DEVICES)
def test_a_convolution(device):
    x, w = torch.empty(2, 3, 16, 16, device=device), torch.empty(8, 3, 3, 3, device=device)
    cost = count(lambda: conv2d(x, w, padding=1), outside=[x, w])
    assert (cost.flops, cost.peak_bytes) == (2 * 2 * 8 * 16 * 16 * 3 * 9, 2 * 8 * 16 * 16 * 4)


@pytest.mark.parametrize("device", DEVICES)
def test_attention_makes_no_matrix_of_queries_by_keys(device):
    heads, tokens, width = 4, 512, 32
    q = torch.empty(1, heads, tokens, width, device=device)
    cost = count(lambda: scaled_dot_product_attention(q, q, q), outside=[q])
    assert cost.flops == 2 * 2 * heads * tokens**2 * width
    result = heads * tokens * width * 4
    assert result <= cost.peak_bytes <= 1.05 * result


def test_torch_itself_would_make_the_matrix_on_the_meta_device():
    """So that the test above can fail."""
    q = torch.empty(1, 4, 512, 32, device="meta")
    with FlopCounterMode(display=False), LiveBytes([q]) as live:
        scaled_dot_product_attention(q, q, q)
    assert live.peak > 4 * 512 * 512 * 4


def test_attention_with_a_mask_and_shared_heads():
    q = torch.empty(1, 8, 64, 16, device="meta")
    k = torch.empty(1, 2, 64, 16, device="meta")
    mask = torch.ones(1, 1, 64, 64, dtype=torch.bool, device="meta")
    cost = count(
        lambda: scaled_dot_product_attention(q, k, k, attn_mask=mask, enable_gqa=True),
        outside=[q, k, mask],
    )
    assert cost.flops == 2 * 2 * 8 * 64**2 * 16


def test_what_is_gone_is_not_counted_and_views_are_counted_once():
    x = torch.empty(1000)

    def chain() -> torch.Tensor:
        y = x + 1
        z = y.view(10, 100)[2:]
        del y
        w = z + 1
        del z
        return w + 1

    with LiveBytes([x]) as live:
        result = chain()
    assert live.peak == 4000 + 3200
    assert live.live == 3200
    del result
    assert live.live == 0


def test_views_of_weights_are_not_counted():
    w = torch.empty(1000)
    assert count(lambda: w.view(10, 100).t(), outside=[w]).peak_bytes == 0


def test_the_bundled_prior_without_weights_costs_what_the_real_one_does():
    costs = prior_costs("tiny", torch.float32)
    prior: Any = priors.load("tiny")
    edge = costs.preferred_size
    one = costs.inputs((edge, edge), image=True)
    noisy = torch.zeros(3, *one.noisy.shape[1:])
    rows = {name: torch.zeros(3, *row.shape[1:]) for name, row in one.rows.items()}
    timestep = torch.full((3,), 500)
    outside = [*prior.unet.parameters(), *prior.unet.buffers(), noisy, timestep, *rows.values()]
    real = count(lambda: prior.run(noisy, timestep, rows), outside=outside)
    predicted = costs.evaluation(3, (edge, edge), image=True)
    assert predicted.flops == real.flops > 0
    assert predicted.peak_bytes == pytest.approx(real.peak_bytes, rel=0.05)
