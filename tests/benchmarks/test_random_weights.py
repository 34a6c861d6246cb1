"""Models of a real one's shape, on the meta device, where weights take no time and no memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.profile.random_weights import byte_tokenizer, random_prior, sd15_unet, sd15_vae


def parameters(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def test_sd15_has_the_published_numbers_of_parameters():
    with torch.device("meta"):
        # Stable Diffusion's 859,520,964, and four more input channels of the first convolution.
        assert parameters(sd15_unet()) == 859_520_964 + 4 * 320 * 3 * 3
        assert parameters(sd15_vae()) == 83_653_863


def test_an_evaluation_of_sd15_costs_what_the_design_counts_on():
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        sd15_unet()(
            torch.empty(1, 8, 64, 64),
            torch.empty(1),
            encoder_hidden_states=torch.empty(1, 77, 768),
        )
    assert counter.get_total_flops() / 1e12 == pytest.approx(0.803, abs=5e-4)


def test_a_random_sd15_is_a_prior_of_its_sizes_and_leaves_the_random_state():
    before = torch.random.get_rng_state()
    prior = random_prior("sd15", device="meta", dtype=torch.bfloat16)
    assert (prior.cell_size, prior.preferred_size, prior.size_multiple) == (8, 512, 64)
    assert (prior.latent_channels, prior.unet.dtype) == (4, torch.bfloat16)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match=r"need one of sd15, got 'sd3'"):
        random_prior("sd3")


def test_the_tokenizer_has_a_token_for_every_byte():
    tokenizer = byte_tokenizer(12)
    tokens = tokenizer(["mön"], padding="max_length", max_length=12, truncation=True).input_ids[0]
    # Start, m, two bytes of the umlaut, n, end, and padding, which is the end's token.
    assert len(set(tokens[:6])) == 6
    assert tokens[5:] == [tokenizer.eos_token_id] * 7
    assert tokenizer.unk_token_id == tokenizer.eos_token_id
