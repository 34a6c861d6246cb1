from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, ConsistencyDecoderVAE

from csd_nerf.priors.decoders import TemporalDecoder, decode, load_decoder
from csd_nerf.priors.weights import WeightsNotFoundError

# The convolution that ends diffusers' temporal decoder has 32 groups whatever the widths.
WIDTHS = (32, 32)
SCALE = 0.25


def small_consistency() -> ConsistencyDecoderVAE:
    return ConsistencyDecoderVAE(
        scaling_factor=SCALE,
        encoder_block_out_channels=WIDTHS,
        encoder_down_block_types=("DownEncoderBlock2D",) * 2,
        encoder_layers_per_block=1,
        decoder_block_out_channels=WIDTHS,
        decoder_down_block_types=("ResnetDownsampleBlock2D",) * 2,
        decoder_up_block_types=("ResnetUpsampleBlock2D",) * 2,
        decoder_layers_per_block=1,
    )


def small_temporal() -> AutoencoderKLTemporalDecoder:
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 2,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        scaling_factor=SCALE,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Both models with random weights, where they lie in the published repositories."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("decoders")
    small_consistency().save_pretrained(root / "consistency")
    small_temporal().save_pretrained(root / "temporal" / "vae")
    return {kind: root / kind for kind in ("consistency", "temporal")}


def latents(count: int) -> torch.Tensor:
    """Pictures in values between black and white, so that clamping hides nothing."""
    return 0.2 * torch.randn(count, 4, 4, 6, generator=torch.Generator().manual_seed(1))


def as_image01(sample: torch.Tensor) -> torch.Tensor:
    return ((sample + 1) / 2).clamp(0, 1)


def test_the_consistency_decoder_gives_each_frame_what_diffusers_gives_it_alone(folders):
    vae = ConsistencyDecoderVAE.from_pretrained(folders["consistency"]).eval()
    latent = latents(3)
    with torch.no_grad():
        expected = [
            as_image01(vae.decode(frame / SCALE, torch.Generator().manual_seed(0)).sample)
            for frame in latent[:, None]
        ]
    decoder = load_decoder("consistency", weights=str(folders["consistency"]))
    torch.testing.assert_close(decode(decoder, latent), torch.cat(expected))


def test_like_latents_come_out_alike_though_the_consistency_decoder_draws_noise(folders):
    decoder = load_decoder("consistency", weights=str(folders["consistency"]))
    one, other = decode(decoder, latents(1).expand(2, -1, -1, -1))
    assert torch.equal(one, other)
    assert one.std() > 0.01


@pytest.mark.parametrize("inside", ["", "vae"])
def test_a_short_film_is_decoded_as_diffusers_decodes_it_whole(folders, inside):
    vae = AutoencoderKLTemporalDecoder.from_pretrained(folders["temporal"] / "vae").eval()
    latent = latents(5)
    with torch.no_grad():
        expected = as_image01(vae.decode(latent / SCALE, num_frames=5).sample)
        alone = as_image01(vae.decode(latent[:1] / SCALE, num_frames=1).sample)
    decoder = load_decoder("temporal", weights=str(folders["temporal"] / inside))
    decoded = decode(decoder, latent)
    torch.testing.assert_close(decoded, expected)
    assert (decoded[0] - alone[0]).abs().max() > 1e-3, "neighbours have to matter"


class Windows:
    """Stands for a temporal decoder; every call returns its own grey."""

    device, dtype, config = torch.device("cpu"), torch.float32, {"scaling_factor": 1.0}

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def decode(self, latent: torch.Tensor, *, num_frames: int):
        assert num_frames == len(latent)
        self.seen.append(latent[:, 0, 0, 0].long().tolist())
        grey = 0.1 * len(self.seen)
        pixels = torch.full((num_frames, 3, 1, 1), 2 * grey - 1)
        return type("Output", (), {"sample": pixels})


def test_windows_of_a_long_film_fade_into_one_another():
    vae = Windows()
    film = torch.arange(9.0).view(9, 1, 1, 1).expand(9, 4, 1, 1)
    parts = [*TemporalDecoder(vae, window=4, overlap=2).stream(film)]
    assert vae.seen == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [5, 6, 7, 8]]
    assert max(len(part) for part in parts) <= 4
    greys = torch.cat(parts)[:, 0, 0, 0]
    third = 0.1 / 3
    # From one window's grey to the next one's in equal steps; the last window comes in over
    # what was a fade already.
    faded = torch.tensor([0.2 + third, 0.2 + 2 * third])
    expected = [0.1, 0.1, 0.1 + third, 0.1 + 2 * third, float(faded[0])]
    expected += [0.75 * float(faded[1]) + 0.25 * 0.4, 0.35, 0.375, 0.4]
    torch.testing.assert_close(greys, torch.tensor(expected))


@pytest.mark.parametrize("count", [1, 8, 9, 23])
def test_every_frame_comes_out_once(folders, count):
    decoder = load_decoder("temporal", weights=str(folders["temporal"]))
    assert decode(decoder, latents(count)).shape == (count, 3, 8, 12)


@pytest.mark.parametrize("kind", ["consistency", "temporal"])
def test_latents_of_another_prior_are_refused(folders, kind):
    decoder = load_decoder(kind, weights=str(folders[kind]))
    with pytest.raises(ValueError, match=r"got 8 channels: take the prior's own decoder \(vae\)"):
        decode(decoder, torch.zeros(1, 8, 4, 4))


@pytest.mark.parametrize(
    ("kind", "fetch"),
    [
        ("consistency", "hf download openai/consistency-decoder config.json"),
        ("temporal", "hf download stabilityai/stable-video-diffusion-img2vid vae/config.json"),
    ],
)
@pytest.mark.parametrize("weights", [None, "no such/name at all", "a-folder"])
def test_missing_weights_end_in_one_line_that_helps(tmp_path, monkeypatch, kind, fetch, weights):
    (tmp_path / "a-folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsNotFoundError) as caught:
        load_decoder(kind, weights=weights)
    message = str(caught.value)
    assert fetch in message
    assert "--decoder" not in message
    assert "\n" not in message


def test_a_folder_without_its_weights_is_missed(folders, tmp_path):
    shutil.copy(folders["consistency"] / "config.json", tmp_path)
    with pytest.raises(
        WeightsNotFoundError, match=r"lacks config\.json or diffusion_pytorch_model"
    ):
        load_decoder("consistency", weights=str(tmp_path))
