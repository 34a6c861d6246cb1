from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from csd_nerf.media.pixels import add_change, resize, resize01, to_01, to_bytes


def noise(height: int, width: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (height, width, channels), generator=generator).byte()


def test_eight_bits_are_rounded_and_clipped():
    image = torch.tensor([-1.0, 0.0, 0.5 / 255 + 1e-4, 1.0, 2.0]).view(1, 1, 1, 5)
    pixels = to_bytes(image.expand(1, 3, 1, 5))
    assert pixels.shape == (1, 1, 5, 3)
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_become_no_pixels(value):
    image01 = torch.full((3, 2, 2), 0.5)
    image01[1, 0, 1] = value
    with pytest.raises(FloatingPointError, match="Images need to be finite, got inf or nan"):
        to_bytes(image01)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_bytes_survive_the_way_there_and_back(lead):
    pixels = noise(16, 16).expand(*lead, -1, -1, -1)
    image01 = to_01(pixels)
    assert image01.shape == (*lead, 3, 16, 16)
    value = float(pixels[..., 4, 9, 1].flatten()[0]) / 255
    assert image01[..., 1, 4, 9].unique().tolist() == [pytest.approx(value)]
    assert torch.equal(to_bytes(image01), pixels)


def test_resizing_looks_across_the_edges_of_a_wrapped_picture():
    image = noise(32, 48)
    halved = resize(image, (16, 24), wrap=True)
    assert torch.equal(resize(image.roll(10, 1), (16, 24), wrap=True), halved.roll(5, 1))
    assert torch.equal(halved[:, 8:16], resize(image, (16, 24))[:, 8:16])
    assert resize(image, (32, 48)) is image
    tiny_one = torch.tensor([[[0, 0, 0], [255, 255, 255]]], dtype=torch.uint8)
    assert resize(tiny_one, (4, 8), wrap=True).shape == (4, 8, 3)


@pytest.mark.parametrize("by", ["lanczos", "bilinear", "box"])
def test_shrinking_takes_all_pixels_into_account_and_moves_nothing(by):
    stripes = torch.zeros(16, 64, 3, dtype=torch.uint8)
    stripes[:, ::2] = 200
    assert (resize(stripes, (4, 16), by=by)[:, 2:-2].float() - 100).abs().max() < 8
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8)[None, :, None].expand(16, -1, 3)
    means = ramp.float().unflatten(1, (16, 4)).mean(2)[:4]
    assert (resize(ramp, (4, 16), by=by).float() - means)[:, 2:-2].abs().max() <= 1


def test_the_box_filter_takes_means_of_areas():
    image = noise(6, 8)
    means = image.double().unflatten(1, (4, 2)).unflatten(0, (3, 2)).mean((1, 3))
    # Pillow rounds twice, once an axis.
    assert (resize(image, (3, 4), by="box") - means).abs().max() <= 1


def test_transparent_pixels_lend_no_colour_to_their_neighbours():
    image = torch.zeros(2, 2, 4, dtype=torch.uint8)
    image[:, 0] = torch.tensor([200, 100, 0, 255])
    image[:, 1] = torch.tensor([0, 0, 250, 0])
    (pixel,) = resize(image, (1, 1), by="bilinear")[0].tolist()
    assert pixel[:3] == pytest.approx([200, 100, 0], abs=1)
    assert pixel[3] == pytest.approx(127, abs=1)


def test_images_in_0_1_shrink_without_aliasing_and_stay_in_range():
    stripes = torch.zeros(1, 3, 32, 32)
    stripes[..., ::2] = 1
    assert (resize01(stripes, (8, 8))[..., 1:-1] - 0.5).abs().max() < 0.05
    edge = torch.zeros(1, 3, 4, 4)
    edge[..., 2:] = 1
    grown = resize01(edge, (32, 32))
    assert (grown.min(), grown.max()) == (0, 1)
    assert resize01(edge, (4, 4)) is edge


@pytest.mark.parametrize("size", [(16, 20), (48, 44)])
def test_images_in_0_1_are_resized_as_pillow_does_it(size):
    # Smooth, since the cubics differ by a parameter: torch's a is -0.75 or -0.5, Pillow's -0.5.
    coarse = Image.fromarray(noise(4, 4).numpy()).resize((30, 24), Image.Resampling.BICUBIC)
    meant = np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC), float)
    image01 = torch.from_numpy(np.array(coarse)).permute(2, 0, 1)[None] / 255
    made = 255 * resize01(image01, size)[0].permute(1, 2, 0)
    assert np.abs(made.numpy() - meant).max() < 2


@pytest.mark.parametrize("size", [(601, 50), (300, 31), (20, 23), (9, 7)])
def test_a_constant_change_is_added_and_the_strips_of_rows_fit_together(size):
    original = noise(*size) // 2
    before01 = torch.rand(3, 20, 23, generator=torch.Generator().manual_seed(0)) / 2
    offset = torch.tensor([0.1, 0.0, 0.2])
    result = add_change(original, before01, before01 + offset[:, None, None]).double()
    assert (result - (original.double() + 255 * offset.double())).abs().max() < 0.52


@pytest.mark.parametrize("factor", [0.25, -1.0])
def test_detail_is_scaled_as_contrasts_are(factor):
    """A picture that is darkened, or inverted, at a quarter of its size."""
    smooth = resize(noise(9, 9), (160, 160), by="bilinear")
    original = (smooth.float() * 0.7 + 30 * torch.rand(160, 160, 1)).byte()
    offset = 0.0 if factor > 0 else 1.0
    small01 = resize(original, (40, 40), by="box").movedim(2, 0) / 255
    result = add_change(original, small01, factor * small01 + offset)
    wanted = factor * original.double() + 255 * offset
    plain = resize(to_bytes(factor * small01 + offset), (160, 160), by="bilinear")

    def off(made):
        return float((made.double() - wanted).abs().mean())

    assert off(result) < 0.25 * off(plain)
    # Simply added, the detail would be too strong.
    change = factor * small01 + offset - small01
    grown = functional.interpolate(change[None], (160, 160), mode="bicubic")[0]
    added = original.float() + 255 * grown.movedim(0, 2)
    assert off(result) < 0.25 * off(added.clamp(0, 255))


def test_detail_loses_its_colour_where_the_picture_does():
    """A picture that is made grey at a quarter of its size, with detail of many colours."""
    smooth = resize(noise(9, 9), (160, 160), by="bilinear")
    original = (smooth.float() * 0.7).byte() + noise(160, 160) // 4
    mixed = torch.tensor([0.3, 0.6, 0.1])
    small01 = resize(original, (40, 40), by="box").movedim(2, 0) / 255
    grey01 = torch.einsum("c,chw->hw", mixed, small01).expand(3, -1, -1)
    result = add_change(original, small01, grey01).double()
    wanted = (original.float() @ mixed)[..., None].double()
    detail = original - resize(resize(original, (40, 40)), (160, 160), by="bilinear").double()
    # The original's detail is 15 levels strong.
    assert detail.abs().mean() > 12
    assert (result - result.mean(2, keepdim=True)).abs().mean() < 1.5
    assert (result - wanted).abs().mean() < 2


def slope(small, changed, reach, flat):
    """The regression's slope in float64, pixel by pixel."""
    height, width = small.shape[1:]
    wide = [functional.pad(x[None], (reach,) * 4, mode="replicate")[0] for x in (small, changed)]
    found = torch.zeros(height, width, 3, 3).double()
    for y in range(height):
        for x in range(width):
            before, after = (
                part[:, y : y + 2 * reach + 1, x : x + 2 * reach + 1].flatten(1) for part in wide
            )
            ratio = (after.mean(1) / before.mean(1).clamp(min=0.02)).clamp(0, 1)
            both = torch.cat([before, after]).cov(correction=0)
            wanted, known = both[3:, :3] + flat * ratio.diag(), both[:3, :3] + flat * torch.eye(3)
            found[y, x] = wanted @ known.inverse()
    return found


def without_noise(small, changed, reach):
    """What of a change is left, in float64, pixel by pixel."""

    def patches(values):
        wide = functional.pad(values[None], (reach,) * 4, mode="replicate")[0]
        return wide.unfold(1, 2 * reach + 1, 1).unfold(2, 2 * reach + 1, 1).flatten(3)

    fitted = slope(small, changed, reach, 1e-5)
    around = (small - patches(small).mean(3)).movedim(0, 2)
    rest = changed - patches(changed).mean(3) - (fitted @ around[..., None])[..., 0].movedim(2, 0)
    return changed - (0.02**2 / patches(rest**2).mean(3)).clamp(max=1) * rest


@pytest.mark.parametrize(("size", "reach"), [((300, 60), 8), ((70, 66), 8), ((90, 40), 3)])
def test_detail_takes_the_gain_around_it_in_all_strips_of_rows(size, reach):
    """The definition: up(quiet after) + up(G) (original - up(before)), all rows at once."""
    original = noise(*size)
    grid = (20, 23) if reach == 8 else (30, 8)
    # Not quite the original: an autoencoder loses some of it.
    small = resize(original, grid, by="box").movedim(2, 0).double() / 255
    generator = torch.Generator().manual_seed(1)
    before, after = (
        small + torch.randn(3, *grid, generator=generator).double() / 10 for _ in range(2)
    )
    gain = slope(before, after, reach, 1e-3).clamp(-2, 2).flatten(2).movedim(2, 0)
    quiet = without_noise(before, after, reach)

    def grown(values):
        up = functional.interpolate(values[None], size, mode="bicubic", antialias=True)[0]
        return up.movedim(0, 2)

    detail = original.double() - 255 * grown(before)
    wanted = 255 * grown(quiet) + (grown(gain).unflatten(-1, (3, 3)) @ detail[..., None])[..., 0]
    result = add_change(original, before.float(), after.float())
    # Half a level of rounding, and what float32 loses.
    assert (result.double() - wanted.clamp(0, 255)).abs().max() < 0.6


def test_what_an_edit_adds_to_flat_colours_stays_unless_it_is_as_weak_as_the_decoders_noise():
    original = torch.full((120, 120, 3), 100, dtype=torch.uint8)
    before = torch.full((3, 40, 40), 100 / 255)
    stripes = torch.where(torch.arange(40) % 4 < 2, 1.0, -1.0)

    def left(strength):
        result = add_change(original, before, before + strength * stripes)[20:-20, 20:-20]
        return float(result.double().std()) / 255

    assert left(0.01) < 0.001
    assert left(0.1) > 0.08


def test_contrasts_that_are_changed_are_no_noise():
    """A faint texture of 2 % that is inverted is explained by what was there."""
    smooth = resize(noise(9, 9), (40, 40), by="bilinear").movedim(2, 0) / 255
    before = 0.5 + 0.04 * (smooth - 0.5)
    original = resize(to_bytes(before), (80, 80), by="bilinear")
    result = add_change(original, before, 1 - before).double()
    wanted = 255 * functional.interpolate(1 - before[None], (80, 80), mode="bicubic")[0]
    contrast = (wanted - wanted.mean()).movedim(0, 2)
    assert ((result - result.mean()) * contrast).sum() > 0.7 * contrast.square().sum()


def test_a_change_goes_on_across_the_edges_that_meet():
    original = torch.full((30, 60, 3), 100, dtype=torch.uint8)
    before = torch.full((3, 10, 20), 100 / 255)
    after = before + torch.randn(3, 10, 20, generator=torch.Generator().manual_seed(0)) / 4
    result = add_change(original, before, after, wrap=True)
    turned = add_change(original, before, after.roll(6, 2), wrap=True)
    assert torch.equal(turned, result.roll(18, 1))
    assert not torch.equal(add_change(original, before, after.roll(6, 2)), result.roll(18, 1))


def test_detail_takes_the_gain_of_what_lies_across_the_edges_that_meet():
    original, generator = noise(30, 60), torch.Generator().manual_seed(0)
    before, after = torch.rand(2, 3, 10, 20, generator=generator)
    result = add_change(original, before, after, wrap=True)
    turned = add_change(original.roll(18, 1), before.roll(6, 2), after.roll(6, 2), wrap=True)
    assert (turned.short() - result.roll(18, 1)).abs().max() <= 1


@pytest.mark.parametrize("levels", [256, 6])
def test_no_change_leaves_the_very_bytes(levels):
    original = torch.randint(0, levels, (40, 30, 3), dtype=torch.uint8)
    for before in (torch.rand(3, 10, 8), torch.rand(3, 10, 8) / 100):
        assert torch.equal(add_change(original, before, before), original)


def test_a_change_that_is_not_finite_is_refused():
    black = torch.zeros(4, 4, 3, dtype=torch.uint8)
    with pytest.raises(FloatingPointError, match="Images need to be finite"):
        add_change(black, torch.zeros(3, 2, 2), torch.full((3, 2, 2), torch.nan))
    with pytest.raises(FloatingPointError, match="Images need to be finite"):
        add_change(black, torch.full((3, 2, 2), torch.inf), torch.zeros(3, 2, 2))
