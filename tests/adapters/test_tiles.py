"""Tiled encoding and decoding against the whole picture in one piece."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate
from torch.utils._python_dispatch import TorchDispatchMode

from csd_nerf.adapters import tiles
from csd_nerf.adapters.tiles import DECODE_MARGIN, TILES_PER_CALL, decode_tiled, encode_tiled
from csd_nerf.core import DiscreteSchedule


class PointwisePrior:
    """Every cell knows its own pixels only, so that tiles can't matter."""

    name = "fake"
    device = torch.device("cpu")
    schedule = DiscreteSchedule.scaled_linear()
    latent_channels = 3
    cell_size = 2
    preferred_size = 32
    size_multiple = 4
    source_rows = ("condition", "reference")

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def encoding_tiles(self, sample01):
        return nullcontext()

    def decoding_tiles(self, sample):
        return nullcontext()

    def encode_source(self, image01):
        self.shapes.append(tuple(image01.shape))
        latent = self.blur(avg_pool2d(image01, 2))
        return latent, {"condition": 5 * latent[:, :2] - 1, "reference": -latent}

    def encode(self, image01):
        return self.encode_source(image01)[0]

    def decode(self, latent):
        self.shapes.append(tuple(latent.shape))
        return self.blur(interpolate(latent, scale_factor=2)).clamp(0, 1)

    def blur(self, x):
        return x

    def encode_text(self, prompts, image_rows=None):
        raise NotImplementedError

    def free_text_encoder(self):
        raise NotImplementedError

    def predict(self, branches, timestep, *, max_batch=None):
        raise NotImplementedError


class NeighbourlyPrior(PointwisePrior):
    """Looks at neighbours, and at zeros beyond the edge, as convolutions do."""

    def blur(self, x):
        return avg_pool2d(x, 3, stride=1, padding=1)


class SpoilingPrior(PointwisePrior):
    """Paints everything white but a black frame as wide as the margin."""

    def decode(self, latent):
        image = torch.zeros(len(latent), 3, 2 * latent.shape[2], 2 * latent.shape[3])
        edge = 2 * DECODE_MARGIN
        image[:, :, edge:-edge, edge:-edge] = 1
        return image


def picture(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)


def as_image01(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)[None] / 255


SIZES = [(32, 32), (32, 100), (36, 60), (104, 76), (64, 32), (4, 100)]


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_tiles_make_no_difference_to_a_prior_that_sees_single_cells(size, wrap):
    image = picture(*size)
    latent, rows = encode_tiled(PointwisePrior(), image, wrap=wrap)
    whole = avg_pool2d(as_image01(image), 2)[0]
    torch.testing.assert_close(latent, whole, atol=1e-6, rtol=0)
    assert list(rows) == ["condition", "reference"]
    torch.testing.assert_close(rows["condition"], 5 * whole[:2] - 1, atol=1e-5, rtol=0)
    torch.testing.assert_close(rows["reference"], -whole, atol=1e-6, rtol=0)

    decoded = decode_tiled(PointwisePrior(), picture(*size).permute(2, 0, 1) / 255, wrap=wrap)
    expected = image.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(decoded, expected)


def test_a_picture_that_fits_in_a_tile_is_taken_as_a_whole():
    prior, image = NeighbourlyPrior(), picture(32, 28)
    latent, rows = encode_tiled(prior, image)
    whole, whole_rows = prior.encode_source(as_image01(image))
    assert torch.equal(latent, whole[0])
    assert all(torch.equal(rows[name], whole_rows[name][0]) for name in prior.source_rows)
    whole = (prior.decode(latent[None])[0] * 255).round().permute(1, 2, 0)
    assert torch.equal(decode_tiled(prior, latent), whole.to(torch.uint8))
    wide = torch.rand(3, 4, 60)
    whole = (prior.decode(wide[None])[0] * 255).round().permute(1, 2, 0)
    assert torch.equal(decode_tiled(prior, wide, tile=(4, 60)), whole.to(torch.uint8))


def test_what_padding_spoils_is_seen_at_the_picture_s_own_edges_only():
    decoded = decode_tiled(SpoilingPrior(), torch.zeros(3, 40, 52))
    edge = 2 * DECODE_MARGIN
    assert (decoded[edge:-edge, edge:-edge] == 255).all()
    assert not decoded[:edge].any()
    wrapped = decode_tiled(SpoilingPrior(), torch.zeros(3, 40, 52), wrap=True)
    assert (wrapped[edge:-edge] == 255).all()


def test_turning_a_wrapped_picture_turns_its_latent_and_its_decoding():
    prior, image, turn = NeighbourlyPrior(), picture(32, 96), 24
    turned = image.roll(2 * turn, 1)
    latent, _ = encode_tiled(prior, image, wrap=True)
    torch.testing.assert_close(encode_tiled(prior, turned, wrap=True)[0], latent.roll(turn, 2))
    flat = encode_tiled(prior, image)[0].roll(turn, 2)
    assert (encode_tiled(prior, turned)[0] - flat).abs().max() > 0.05

    decoded = decode_tiled(prior, latent, wrap=True).int()
    other = decode_tiled(prior, latent.roll(turn, 2), wrap=True).int()
    assert (other - decoded.roll(2 * turn, 1)).abs().max() <= 1


class Largest(TorchDispatchMode):
    """The largest memory of floating point that any operation makes, in bytes."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._known:
                    self.bytes = max(self.bytes, storage.nbytes())
        return result


@pytest.mark.parametrize("height", [128, 512])
def test_memory_is_that_of_a_row_of_tiles(height, monkeypatch):
    monkeypatch.setattr(tiles, "SAMPLE_PIXELS", 0)
    latent = torch.rand(3, height // 2, 64)
    with Largest(latent) as decoding:
        decode_tiled(PointwisePrior(), latent)
    row = 3 * 32 * 128 * 4
    assert row <= decoding.bytes <= 2 * row

    with Largest() as encoding:
        encode_tiled(PointwisePrior(), picture(height, 128))
    assert encoding.bytes <= max(latent.numel() * 4, 2 * row)


@pytest.mark.parametrize(
    ("max_batch", "most"), [(None, TILES_PER_CALL), (100, TILES_PER_CALL), (2, 2)]
)
def test_few_tiles_go_through_at_a_time(max_batch, most):
    prior = PointwisePrior()
    rows = []
    latent, _ = encode_tiled(
        prior, picture(64, 128), max_batch=max_batch, after_row=lambda *now: rows.append(now)
    )
    decode_tiled(prior, latent, max_batch=max_batch, after_row=lambda *now: rows.append(now))
    assert max(shape[0] for shape in prior.shapes) == most
    assert {shape[2:] for shape in prior.shapes} == {(32, 32), (16, 16)}
    # Each begins before its first row.
    assert rows == [(0, 3), (1, 3), (2, 3), (3, 3)] * 2


def test_all_tiles_are_normalised_by_a_sample_of_the_whole_picture(monkeypatch):
    """The sample lies all over the picture, side by side; a single tile needs none."""
    samples = []

    class Recording(PointwisePrior):
        def encoding_tiles(self, sample01):
            samples.append(sample01)
            return super().encoding_tiles(sample01)

        def decoding_tiles(self, sample):
            samples.append(sample)
            return super().decoding_tiles(sample)

    image = picture(96, 160)
    latent, _ = encode_tiled(Recording(), image)
    decode_tiled(Recording(), latent)
    encoded, decoded = samples
    assert encoded.shape == (15, 3, 32, 32)
    assert torch.equal(encoded[6], as_image01(image)[0, :, 32:64, 32:64])
    assert torch.equal(decoded[6], latent[:, 16:32, 16:32])
    monkeypatch.setattr(tiles, "SAMPLE_PIXELS", 5 * 32 * 32)
    encode_tiled(Recording(), image)
    assert len(samples[-1]) == 5
    assert torch.equal(samples[-1][-1], encoded[-1])
    encode_tiled(Recording(), picture(32, 32))
    assert len(samples) == 3
