from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tint_prior import TintPrior

from csd_nerf.core.settings import EditSettings
from csd_nerf.media.pixels import resize01
from csd_nerf.scene.controls import EditRequest
from csd_nerf.scene.report import round_metrics, sheet_columns
from csd_nerf.scene.rounds import (
    edit_views,
    finish_image,
    prior_size,
)

SETTINGS = EditSettings(iterations=60, learning_rate=1.0, text_scale=1.0, mixing="none")


@pytest.mark.parametrize(
    ("size", "edge", "multiple", "expected"),
    [
        ((512, 512), 512, 8, (512, 512)),
        ((1920, 1080), 512, 8, (680, 384)),
        ((1080, 1920), 64, 4, (48, 84)),
        ((48, 64), 64, 8, (56, 72)),
        ((10, 4000), 64, 8, (8, 1280)),
    ],
)
def test_edits_have_about_the_area_asked_and_the_aspect(size, edge, multiple, expected):
    assert prior_size(size, edge=edge, multiple=multiple) == expected


def edit_round(photographs, starts, *, settings=SETTINGS, **options):
    return edit_views(
        TintPrior(),
        photographs,
        starts,
        request=EditRequest("swap", "", "", settings),
        generator=torch.Generator().manual_seed(0),
        **options,
    )


def edit(photographs, starts, **options):
    return edit_round(photographs, starts, **options).edits


def photograph(seed: int, height: int, width: int) -> torch.Tensor:
    coarse = torch.rand(1, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    return resize01(coarse, (height, width))[0]


def test_a_round_ends_at_the_edit_that_the_prior_knows():
    photographs = {3: photograph(3, 64, 64), 8: photograph(8, 64, 64)}
    starts = {view: resize01(image[None], (32, 32))[0] for view, image in photographs.items()}
    edits = edit(photographs, starts)
    assert list(edits) == [3, 8]
    for view, result in edits.items():
        assert (result.edited01 - result.source01.flip(0)).abs().mean() < 0.01
        assert result.image.shape == (64, 64, 3)
        truth = photographs[view].flip(0).permute(1, 2, 0)
        assert (result.image / 255 - truth).abs().mean() < 0.02


def test_views_of_mixed_aspects_keep_theirs():
    photographs = {0: photograph(0, 60, 40), 1: photograph(1, 40, 60), 2: photograph(2, 60, 40)}
    sizes = {0: (40, 24), 1: (24, 40), 2: (40, 24)}
    starts = {view: resize01(photographs[view][None], sizes[view])[0] for view in sizes}
    edits = edit(photographs, starts)
    assert list(edits) == [0, 1, 2]
    assert [tuple(e.image.shape[:2]) for e in edits.values()] == [(60, 40), (40, 60), (60, 40)]
    assert [tuple(e.edited01.shape[1:]) for e in edits.values()] == list(sizes.values())
    columns = sheet_columns(edits)
    assert list(columns) == ["source", "start", "edit"]
    # Views as they are, in cells of 40 x 40, white beside.
    assert all(column.shape == (3, 3, 40, 40) for column in columns.values())
    # What the scene is trained on, at the size of the edit.
    trained01 = resize01(edits[0].image.permute(2, 0, 1)[None] / 255, (40, 24))[0]
    assert torch.equal(columns["edit"][0, :, :, 8:32], trained01)
    assert torch.allclose(trained01, edits[0].edited01, atol=0.1)
    assert torch.equal(columns["source"][1, :, 8:32], edits[1].source01)
    assert columns["start"][0, :, :, :8].eq(1).all()
    assert columns["start"][1, :, 32:].eq(1).all()
    metrics = round_metrics(edits, seconds=2.0, evaluations=7, evaluations_before=5)
    assert (metrics["evaluations"], metrics["evaluations_so_far"]) == (7, 12)
    assert metrics["views"] == 3
    assert metrics["change_from_source"] > 0.02


def test_the_start_decides_where_few_iterations_end():
    photographs = {0: photograph(0, 32, 32)}
    grey = {0: torch.full((3, 32, 32), 0.5)}
    few = EditSettings(iterations=1, learning_rate=1e-4, text_scale=1.0)
    result = edit(photographs, grey, settings=few)[0]
    assert (result.edited01 - 0.5).abs().max() < 0.01


@pytest.mark.parametrize("update", ["in2n", "ip2p"])
def test_sampled_updates_end_at_the_edit_that_the_prior_knows_too(update):
    photographs = {0: photograph(0, 32, 32), 1: photograph(1, 32, 32)}
    grey = {view: torch.full((3, 32, 32), 0.5) for view in photographs}
    settings = replace(SETTINGS, image_scale=1.0)
    whole = edit_round(photographs, grey, update=update, denoising_steps=5, settings=settings)
    # With both scales at 1, Eq. 3 is the estimate with image and instruction alone.
    assert whole.evaluations == 2 * 5
    for result in whole.edits.values():
        # The last step leaves the noise of timestep 0, sigma = 0.03 in [-1, 1].
        assert (result.edited01 - result.source01.flip(0)).abs().mean() < 0.02


@pytest.mark.parametrize("noise_range", [None, (0.3, 0.6)])
def test_in2n_noises_each_render_at_a_level_of_its_own(monkeypatch, noise_range):
    shown = []
    right = TintPrior.predict

    def predict(self, branches, timestep, *, max_batch=None):
        shown.append((timestep, branches[0].noisy, branches[1].rows["condition"]))
        return right(self, branches, timestep, max_batch=max_batch)

    monkeypatch.setattr(TintPrior, "predict", predict)
    photographs = {view: photograph(view, 32, 32) for view in range(40)}
    renders = {view: torch.full((3, 32, 32), view / 40) for view in photographs}
    given = {} if noise_range is None else {"noise_range": noise_range}
    edit(photographs, renders, update="in2n", denoising_steps=2, **given)

    levels = []
    for view, (timestep, noisy, condition) in enumerate(shown[::2]):
        # Of two steps, the first is halfway to the level.
        levels.append(2 * (int(timestep) - 1))
        alpha, sigma = TintPrior.schedule.alpha(timestep), TintPrior.schedule.sigma(timestep)
        noise = (noisy - alpha * (2 * renders[view] - 1)) / sigma
        assert abs(float(noise.mean())) < 0.1
        assert abs(float(noise.std()) - 1) < 0.1
        assert torch.equal(condition[0], photographs[view] * 2 - 1)
    assert len(levels) == 40
    low, high = noise_range or (0.02, 0.98)
    assert 1000 * low - 2 <= min(levels) < 1000 * low + 130
    assert 1000 * high - 130 < max(levels) <= 1000 * high


def test_ip2p_starts_from_noise_whatever_the_render():
    photographs = {0: photograph(0, 32, 32)}
    dark, grey = ({0: torch.full((3, 32, 32), value)} for value in (0.0, 0.5))
    few = {"update": "ip2p", "denoising_steps": 2}
    first, second = (edit(photographs, start, **few)[0].edited01 for start in (dark, grey))
    assert torch.equal(first, second)


def test_values_that_are_not_finite_are_told(monkeypatch):
    nan = torch.full((3, 1, 3, 32, 32), torch.nan)
    monkeypatch.setattr(TintPrior, "predict", lambda *_, **__: nan)
    photographs = {0: photograph(0, 32, 32)}
    with pytest.raises(FloatingPointError, match="Sampled latents need to be finite"):
        edit(photographs, photographs, update="ip2p")


def test_fine_detail_stays_when_asked():
    fine = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    photographs = {0: fine}
    starts = {0: resize01(fine[None], (32, 32))[0]}
    none = EditSettings(iterations=1, learning_rate=1e-6, text_scale=1.0)
    kept = edit(photographs, starts, keep_detail=True, settings=none)[0].image / 255
    lost = edit(photographs, starts, keep_detail=False, settings=none)[0].image / 255
    truth = fine.permute(1, 2, 0)
    assert (kept - truth).abs().max() < 0.004
    assert (lost - truth).abs().mean() > 0.02


@pytest.mark.parametrize("update", ["csd", "ip2p"])
def test_detail_is_kept_by_the_round_trip_of_the_encoded_source(monkeypatch, update):
    """csd has the sources' latents already, and encodes its starts only; ip2p has no starts."""
    shown, decoded = [], []
    decode = TintPrior.decode
    monkeypatch.setattr(
        TintPrior, "encode", lambda self, image01: shown.extend(image01) or 2 * image01 - 1
    )
    monkeypatch.setattr(
        TintPrior,
        "encode_source",
        lambda self, image01: (1.5 * image01 - 1, {"condition": 2 * image01 - 1}),
    )
    monkeypatch.setattr(
        TintPrior, "decode", lambda self, latent: decoded.append(latent) or decode(self, latent)
    )
    photographs = {view: photograph(view, 32, 32) for view in range(4)}
    grey = {view: torch.full((3, 32, 32), 0.5) for view in (1, 3)}
    few = replace(SETTINGS, iterations=1, max_batch=1)
    options = {"update": update, "denoising_steps": 2, "settings": few}
    edit(photographs, grey, keep_detail=True, **options)
    scale = 1.5 if update == "csd" else 2.0
    encoded = [grey[view] if update == "csd" else photographs[view] for view in (1, 3)]
    assert torch.equal(torch.stack(shown), torch.stack(encoded))
    for view, trip in zip((1, 3), decoded[-2:], strict=True):
        assert torch.allclose(trip[0], scale * photographs[view] - 1, atol=1e-6)


def test_images_are_rounded_to_8_bits_once():
    image = torch.tensor([0.0, 0.4999 / 255, 0.5001 / 255, 1.0]).view(1, 2, 2).repeat(3, 1, 1)
    finished = finish_image(image, torch.zeros(3, 2, 2), round_trip01=None)
    assert finished[..., 0].flatten().tolist() == [0, 0, 1, 255]


def test_photographs_shrink_by_their_areas():
    """Of a board of single black and white pixels only grey is left."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    board = ((x + y) % 2).float().expand(3, 64, 64)
    source01 = edit({0: board}, {0: torch.full((3, 32, 32), 0.5)})[0].source01
    assert (source01 - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("keep_detail", [False, True])
def test_edits_are_enlarged_without_steps(keep_detail):
    """A ramp of 16 columns has 64 different ones afterwards."""
    ramp = torch.linspace(0.1, 0.9, 16).expand(3, 16, 16)
    black = torch.zeros_like(ramp) if keep_detail else None
    image = finish_image(ramp, torch.zeros(3, 64, 64), round_trip01=black)
    steps = image[30, 4:-4, 0].int().diff()
    assert steps.min() > 0
    assert steps.max() < 3 * steps.float().mean()
