"""Parts of panoramas and videos are edited, and the rest and fine detail stay.

`TintPrior` swaps red and blue in pixel space; `tiny` is the bundled prior at small sizes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from tint_prior import TintPrior
from torch import Tensor
from torch.nn import functional

from csd_nerf import priors
from csd_nerf.adapters.frame_masks import check_frame_masks
from csd_nerf.adapters.options import PanoramaOptions, VideoOptions
from csd_nerf.adapters.panorama import edit_panorama
from csd_nerf.adapters.tiles import decode_tiled, encode_tiled
from csd_nerf.adapters.video import edit_frames, edit_video
from csd_nerf.media.frames import open_frames
from csd_nerf.media.images import read_image, write_image
from csd_nerf.media.pixels import to_01
from csd_nerf.media.regions import parse_region
from csd_nerf.priors.base import Branch

pytestmark = pytest.mark.usefixtures("coarse_kernel")

PLAIN: dict[str, Any] = {"preset": "tiny", "prompt": "swap", "text_scale": 1.0, "image_scale": 1.0}
QUICK = {"learning_rate": 2.0, "updates": 10, "decay": 1.0, "batch": 4, "steps": 3}


class DimPrior(TintPrior):
    """Halves the brightness instead."""

    def _clean(self, branch: Branch) -> Tensor:
        clean = super()._clean(branch)
        edited = "condition" in branch.rows and bool(branch.rows["text"].any())
        return (clean.flip(1) - 1) / 2 if edited else clean


class CountingPrior(TintPrior):
    """Counts what it is asked to evaluate and to decode."""

    def __init__(self) -> None:
        self.evaluations = 0
        self.decoded = 0

    def predict(self, branches: list[Branch], timestep: Tensor, **options: Any) -> Tensor:
        self.evaluations += sum(branch.evaluations for branch in branches)
        return super().predict(branches, timestep, **options)

    def decode(self, latent: Tensor) -> Tensor:
        self.decoded += len(latent)
        return super().decode(latent)


def colours(count: int, height: int, width: int, *, detail: int = 0) -> Tensor:
    """Frames of smooth random colours, with noise of this amplitude in single pixels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 3, 4, generator=generator)
    fine = 40 + 175 * functional.interpolate(coarse, (height, width), mode="bilinear")
    noise = torch.randint(-detail, detail + 1, fine.shape, generator=generator)
    return (fine + noise).round().byte().movedim(1, -1)


def panorama(image: Tensor, prior: Any = None, *, finds: Any = None, **changes: Any):
    options = PanoramaOptions(**{**PLAIN, **QUICK, **changes})
    return edit_panorama(TintPrior() if prior is None else prior, image, options, segmenter=finds)


def video(frames: Tensor, prior: Any = None, *, finds: Any = None, **changes: Any):
    options = VideoOptions(**{**PLAIN, **QUICK, **changes})
    prior = TintPrior() if prior is None else prior
    return edit_frames(prior, frames, options, segmenter=finds)


def error(result: Tensor, wanted: Tensor) -> float:
    return float((result.float() - wanted).abs().mean())


@pytest.mark.parametrize(
    ("region", "method", "keep_detail"),
    [
        ("20,0,84,32", "csd", False),
        ("swap@20,0,84,32", "csd", True),
        ("swap@20,0,84,32", "ip2p-windows", False),
        ("20,0,84,32", "ip2p-downsize", True),
    ],
)
def test_a_panorama_changes_in_its_region_alone(region, method, keep_detail):
    image = colours(1, 32, 96)[0]
    prompt = "" if "@" in region else "swap"
    result = panorama(
        image, prompt=prompt, region=(region,), method=method, keep_detail=keep_detail
    ).image
    assert torch.equal(result[:, :20], image[:, :20])
    assert torch.equal(result[:, 84:], image[:, 84:])
    # Shrunken to one window it is less exact.
    assert error(result[:, 30:74], image[:, 30:74].flip(-1)) < 13
    assert error(image[:, 30:74], image[:, 30:74].flip(-1)) > 20


def test_windows_outside_of_a_region_are_not_evaluated():
    image = colours(1, 32, 256)[0]
    costs = []
    for region in ((), ("0,0,10,32",)):
        prior = CountingPrior()
        facts = panorama(image, prior, region=region).facts
        assert facts["evaluations"] == prior.evaluations > 0
        assert facts["updates_per_cell"]["mean"] == pytest.approx(10)
        assert facts["updates_per_cell"]["sd"] == pytest.approx(0, abs=1e-3)
        costs.append(prior.evaluations)
    assert costs[1] < costs[0] / 4


def test_a_mask_and_a_word_confine_a_panorama(tmp_path):
    image = colours(1, 32, 64)[0]
    mask = torch.zeros(32, 64)
    mask[4:28, 20:50] = 1
    outside = mask == 0
    Image.fromarray((255 * mask).byte().numpy()).save(tmp_path / "mask.png")
    asked = []

    def finds(image01, word):
        asked.append(word)
        torch.testing.assert_close(image01, to_01(image))
        return mask

    by_file = panorama(image, region=(str(tmp_path / "mask.png"),)).image
    by_word = panorama(image, region=("the car",), finds=finds).image
    assert set(asked) == {"the car"}
    assert torch.equal(by_file, by_word)
    assert torch.equal(by_file[outside], image[outside])
    assert error(by_file[12:20, 30:40], image[12:20, 30:40].flip(-1)) < 13


def test_the_fine_detail_of_a_panorama_stays():
    image = colours(1, 128, 256, detail=30)[0]
    kept, lost = (
        panorama(image, DimPrior(), size=64, keep_detail=keep).image for keep in (True, False)
    )
    # The noise is 15 on average, halved 7.5.
    assert error(kept, image / 2) < 2.5
    assert error(lost, image / 2) > 6


def test_detail_is_kept_for_looks_with_the_bundled_prior():
    tiny, image = priors.load("tiny"), colours(1, 64, 96)[0]
    few = {"iterations": 1, "prompt": "make it night"}

    def kept(options: dict[str, Any], prior: Any = tiny) -> list[bool]:
        by_frame = {key: value for key, value in options.items() if key != "region"}
        return [
            panorama(image, prior, **{**few, **options}).facts["keep_detail"],
            video(image[None], prior, **{**few, **by_frame})[1]["keep_detail"],
        ]

    assert kept({}) == [True, True]
    assert kept({"keep_detail": False}) == [False, False]
    assert kept({"prompt": "make it snow"}) == [False, False]
    assert kept({"prompt": "make it snow", "keep_detail": True}) == [True, True]
    assert kept({}, TintPrior()) == [False, False]
    assert kept({"region": ("make it snow@0,0,9,9",)})[0] is False


def test_what_the_autoencoder_can_not_do_is_not_seen_if_detail_is_kept():
    """An edit without any effect, in tiles and at the edges, where convolutions see zeros."""
    tiny, image = priors.load("tiny"), colours(1, 70, 150, detail=10)[0]
    few = {"prompt": "make it night", "iterations": 1, "learning_rate": 1e-9, "size": 100}
    kept = panorama(image, tiny, **few).image
    assert (kept.short() - image).abs().max() <= 1
    lost = panorama(image, tiny, **few, keep_detail=False).image
    assert (lost.short() - image).abs().float().mean() > 3
    frames = image[None, :, :80]
    assert (video(frames, tiny, **{**few, "size": 64})[0].short() - frames).abs().max() <= 1


def test_there_is_no_stripe_at_the_edges_of_an_edit_with_margins():
    """Convolutions see zeros beyond the edges, in the round trip as in the edit."""
    tiny, image = priors.load("tiny"), colours(1, 64, 128)[0]
    latent, _ = encode_tiled(tiny, image)
    trip = decode_tiled(tiny, latent)
    wrong = (trip.float() - image).abs().mean((0, 2))
    wanted = 255 * to_01(image).mean(0, keepdim=True).expand(3, -1, -1).movedim(0, 2)
    grey = {"prompt": "make it black and white", "updates": 10}
    off = [
        (panorama(image, tiny, **grey, keep_detail=keep).image.float() - wanted).mean((0, 2)).abs()
        for keep in (False, True)
    ]
    stripe = [float((one[-2:].mean() - one[-12:-4].mean()).abs()) for one in (wrong, *off)]
    # 6.4 levels of the round trip, 4.4 of the edit, and 0.1 with margins.
    assert stripe[0] > 4
    assert stripe[2] < 0.2 * stripe[1]


@pytest.mark.parametrize("wrap", [False, True])
def test_regions_and_margins_go_together(wrap):
    image = colours(1, 64, 128, detail=5)[0]
    result = panorama(image, region=("0,0,40,64",), keep_detail=True, wrap=wrap)
    assert result.facts["margin_cells"] == [0 if wrap else 4, 4]
    assert result.facts["canvas_cells"] == [128 if wrap else 136, 72]
    assert torch.equal(result.image[:, 40:], image[:, 40:])
    assert error(result.image[:, :38], image[:, :38].flip(-1)) < 13
    # At the picture's corner too.
    assert error(result.image[:8, :8], image[:8, :8].flip(-1)) < 20


def write_frames(folder, frames: Tensor):
    folder.mkdir()
    for number, frame in enumerate(frames):
        write_image(folder / f"{number:05}.png", frame)
    return open_frames(folder)


def moving_square(count: int = 5):
    """Frames and masks of a textured square that moves to the right."""
    frames = colours(1, 64, 96, detail=20).repeat(count, 1, 1, 1)
    square = colours(1, 24, 24, detail=60)[0]
    masks = torch.zeros(count, 64, 96)
    for k in range(count):
        place = (k, slice(20, 44), slice(10 + 4 * k, 34 + 4 * k))
        frames[place] = square
        masks[place] = 1
    return frames, masks


@pytest.mark.parametrize(("method", "keep_detail"), [("csd", True), ("ip2p", False)])
def test_a_video_changes_in_its_region_alone(tmp_path, method, keep_detail):
    frames = colours(3, 48, 64)
    source = write_frames(tmp_path / "in", frames)
    options = VideoOptions(
        **{**PLAIN, **QUICK, "method": method, "keep_detail": keep_detail, "region": "25%,0,48,48"}
    )
    facts = edit_video(TintPrior(), source, tmp_path / "out", options)
    edited = torch.stack([read_image(path)[0] for path in sorted((tmp_path / "out").iterdir())])
    assert facts["edited_frames"] == len(edited) == 3
    assert torch.equal(edited[:, :, :16], frames[:, :, :16])
    assert torch.equal(edited[:, :, 48:], frames[:, :, 48:])
    assert error(edited[:, :, 22:42], frames[:, :, 22:42].flip(-1)) < 13


@pytest.mark.parametrize(
    "names", [("{:05}.png", (0, 4)), ("mask_{}.png", (0, 4)), ("shot2_{:04}.png", (0, 4))]
)
def test_masks_of_some_frames_are_carried_to_the_others(tmp_path, names):
    frames, masks = moving_square()
    source = write_frames(tmp_path / "in", frames)
    (tmp_path / "masks").mkdir()
    name, known = names
    for number in known:
        write_image(
            tmp_path / "masks" / name.format(number),
            (255 * masks[number]).byte()[..., None].expand(-1, -1, 3),
        )
    options = VideoOptions(
        **{**PLAIN, **QUICK, "region": str(tmp_path / "masks"), "size": 96, "updates": 25}
    )
    edit_video(TintPrior(), source, tmp_path / "out", options)
    for number in range(5):
        edited, _ = read_image(tmp_path / "out" / f"{number:05}.png")
        outside = masks[number] == 0
        changed = (edited.short() - frames[number]).abs().sum(-1) > 0
        if number in known:
            assert torch.equal(edited[outside], frames[number][outside])
        # The border may be off by a pixel.
        assert changed[outside].float().mean() < 0.03
        middle = (slice(28, 36), slice(18 + 4 * number, 26 + 4 * number))
        assert changed[middle].float().mean() > 0.9


def test_frames_without_anything_inside_are_not_edited_at_all():
    frames = colours(4, 32, 64)
    masks = torch.zeros(4, 32, 64)
    masks[1, :, :20] = masks[2, :, :20] = 1
    order = iter(masks)
    prior = CountingPrior()
    edited, facts = video(frames, prior, region="the car", finds=lambda *_: next(order))
    assert torch.equal(edited[[0, 3]], frames[[0, 3]])
    assert error(edited[1:3, :, :10], frames[1:3, :, :10].flip(-1)) < 8
    assert facts["edited_frames"] == prior.decoded == 2
    alone = CountingPrior()
    video(frames[1:3], alone, region="0,0,20,32")
    assert prior.evaluations == alone.evaluations == facts["evaluations"] > 0


def test_the_updates_are_those_of_the_frames_that_are_edited():
    masks = torch.zeros(4, 32, 64)
    masks[1:3, :, :20] = 1
    order = iter(masks)
    facts = video(colours(4, 32, 64), region="the car", finds=lambda *_: next(order))[1]
    spread = facts["updates_per_frame"]
    assert [spread[name] for name in ("mean", "min", "max", "sd")] == [10, 10, 10, 0]


def test_a_region_that_no_frame_has_is_told(tmp_path):
    frames = colours(2, 32, 64)
    with pytest.raises(ValueError, match="got the moon, which covers none; name another"):
        video(frames, region="the moon", finds=lambda image01, _: torch.zeros_like(image01[0]))
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match="files named like the pictures"):
        video(frames, region=str(tmp_path / "masks"))
    with pytest.raises(ValueError, match="a place without an instruction, got 'fog@0,0,9,9'"):
        video(frames, region="fog@0,0,9,9")


def test_the_fine_detail_of_a_video_stays():
    frames = colours(2, 128, 128, detail=30)
    kept, lost = (video(frames, DimPrior(), size=32, keep_detail=keep)[0] for keep in (True, False))
    assert error(kept, frames / 2) < 2.5
    assert error(lost, frames / 2) > 6


def test_masks_of_another_shape_are_refused_at_once(tmp_path):
    source = write_frames(tmp_path / "in", colours(3, 64, 96))
    (tmp_path / "masks").mkdir()
    Image.new("L", (50, 50)).save(tmp_path / "masks" / "00002.png")
    with pytest.raises(ValueError, match="A mask needs the picture's shape"):
        check_frame_masks(parse_region(str(tmp_path / "masks")), source)
