from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.engine.identity import plain
from benchmarks.engine.trials import Store
from benchmarks.truth.domains import Arm, Job
from benchmarks.truth.media import Input, MediaDomain
from benchmarks.truth.panoramas import PanoramaDomain, draw_panorama, measure_panorama
from benchmarks.truth.tuned import tuned_arm
from benchmarks.truth.videos import VideoDomain, draw_video
from csd_nerf import priors
from csd_nerf.adapters.options import PanoramaOptions
from csd_nerf.synthetic.edits import all_edits
from csd_nerf.synthetic.looks import LOOKS


@pytest.fixture(scope="module")
def prior():
    return priors.load("tiny")


KINDS = {"panorama": PanoramaDomain, "video": VideoDomain}
DRAW = {"panorama": draw_panorama, "video": draw_video}


@pytest.fixture
def domain(prior, tmp_path):
    def make(medium: str, **options: Any) -> MediaDomain:
        return KINDS[medium](prior, options, Store(tmp_path))

    return make


def arm_of(domain: MediaDomain, name: str) -> Arm:
    name_of = {kind: medium for medium, kind in KINDS.items()}
    arm = next(arm for arm in (*domain.arms, *domain.ablations) if arm.name == name)
    return tuned_arm(name_of[type(domain)], arm)


def arm_options(domain: MediaDomain, name: str, budget: float = 1.0) -> Any:
    return domain.options(Job(arm_of(domain, name), budget))


def small_input(frames: int, *, width: int = 64) -> Input:
    """Noise and its negative."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(256, (frames, 64, width, 3), generator=generator, dtype=torch.uint8)
    truth01 = 1 - source.permute(0, 3, 1, 2).float() / 255
    return Input("noise", all_edits()["negative"], source, truth01)


@pytest.mark.parametrize("medium", ["panorama", "video"])
def test_inputs_are_rendered_with_their_true_edit(medium):
    look = DRAW[medium](0, "validation")
    assert look.edit.kind == "look"
    expected = LOOKS[look.edit.name](look.source01)
    assert (look.truth01 - expected).abs().amax() < 0.01, "8 bits of the source make no more."
    scene = DRAW[medium](1, "validation")
    assert scene.edit.kind == "floor"
    changed = (scene.truth01 - scene.source01).abs().amax(1) > 0.02
    assert 0.1 < changed.float().mean() < 0.9
    assert not scene.source.equal(DRAW[medium](1, "benchmark").source)


def test_later_inputs_repeat_the_edits_on_other_scenes():
    first, again = (draw_panorama(position, "validation") for position in (0, 8))
    assert first.edit == again.edit
    assert first.name != again.name
    assert (first.source01 - again.source01).abs().mean() > 0.02


@pytest.mark.parametrize(
    ("scales", "branches"),
    [
        # Eq. 3 with w_s = 1 has no estimate without the image; SDS has none of the source.
        ({"image_scale": 1.5, "text_scale": 2.5}, {"csd": 5, "csd-no-stein": 5, "sds": 3}),
        ({"image_scale": 1.0, "text_scale": 2.5}, {"csd": 3, "csd-no-stein": 3, "sds": 2}),
    ],
)
def test_methods_that_optimise_have_one_budget(domain, scales, branches):
    evaluations = []
    for name, count in branches.items():
        options = arm_options(domain("video", updates=30, **scales), name)
        assert options.method == name
        evaluations.append(count * options.values().updates)
    assert evaluations == [30 * branches["csd"]] * 3


def test_sampling_takes_the_steps_that_the_budget_allows(domain):
    given = {"updates": 20, "image_scale": 1.0, "text_scale": 1.5}
    videos, panoramas = domain("video", **given), domain("panorama", **given)
    csd = arm_options(videos, "csd")
    for budget in (0.5, 1.0, 1.5):
        ip2p = arm_options(videos, "ip2p", budget)
        # With w_s = 1 Eq. 3 takes two estimates, and Eq. 9 three.
        assert 2 * ip2p.values().steps == budget * 3 * csd.values().updates
    windows, tiles, small = (
        arm_options(panoramas, name).values().steps
        for name in ("ip2p-windows", "ip2p-tiles", "ip2p-downsize")
    )
    # 3 x 13 windows overlap where 2 x 4 lie side by side; one is enough for the shrunken picture.
    assert windows < tiles < small
    assert tiles / windows == pytest.approx(39 / 8, rel=0.2)
    assert small == 50, "More steps change nothing."


@pytest.mark.parametrize("medium", KINDS)
def test_a_budget_counts_what_csd_spends(domain, medium):
    options = [arm_options(domain(medium), "csd", budget) for budget in (1.0, 0.5)]
    updates = [given.values().updates for given in options]
    assert updates[0] == type(options[0])(preset="tiny").values().updates
    assert updates[1] == round(updates[0] / 2)
    rates = [given.values().learning_rate for given in options]
    assert rates[1] == pytest.approx(rates[0] * 2**0.5)


@pytest.mark.parametrize("medium", KINDS)
def test_every_ablation_differs_from_csd_or_its_peer(domain, medium):
    one = domain(medium)
    seen = [
        str(arm_options(one, arm.name))
        for arm in (*one.arms, *one.ablations)
        if arm.method is not None
    ]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("medium", ["panorama", "video"])
def test_arms_mix_as_their_names_say_whatever_the_preset_does(domain, medium):
    given = domain(medium)
    found = {}
    for arm in (*given.arms, *given.ablations):
        if arm.method in ("csd", "csd-no-stein", "sds"):
            values = arm_options(given, arm.name).values()
            found[arm.name] = (values.mixing, values.noise)
            assert (values.source_share == 1.0) != ("-share" in arm.name), arm.name
    for name, (mixing, noise) in found.items():
        own = "independent" if "own-noise" in name or "independent" in name else "shared"
        assert noise == ("independent" if name == "csd-clean-kernel" else own), name
        unmixed = name.startswith(("csd-no-stein", "sds"))
        assert mixing == ("patch" if "patch" in name else "none" if unmixed else "stein"), name
    assert found["csd"] == ("stein", "shared")


def test_plain_windows_update_more_with_one_budget(domain):
    ours, paper = (
        arm_options(domain("panorama", updates=40), name) for name in ("csd", "csd-paper-drawing")
    )
    # Windows of 16 x 16 cells on 24 x 64: a sweep has 2 rows of 6, with overlaps; tiles would be 6.
    assert ours.values().updates == 40
    assert paper.values().updates == 40 * 12 / (24 / 16 * 64 / 16) == 80


def test_given_options_go_over_the_presets(domain):
    given = domain("panorama", learning_rate=0.125, updates=7)
    assert arm_options(given, "csd").values().updates == 7
    changed = arm_options(given, "csd-paper-drawing")
    assert isinstance(changed, PanoramaOptions)
    assert (changed.method, changed.drawing, changed.taper) == ("csd", "uniform", 0)
    assert changed.values().learning_rate == 0.125
    assert changed.values().prior == "tiny"


def test_tiles_lie_side_by_side(domain):
    tiles = arm_options(domain("panorama"), "ip2p-tiles")
    assert isinstance(tiles, PanoramaOptions)
    assert tiles.stride == 64 // 4


@pytest.mark.parametrize(
    ("medium", "name", "frames", "width"),
    [("panorama", "csd", 1, 96), ("video", "csd-no-stein", 2, 64)],
)
def test_an_arm_runs_its_method_in_the_words_of_the_edit(
    domain, prior, monkeypatch, tmp_path, medium, name, frames, width
):
    one, given = domain(medium, updates=1), small_input(frames, width=width)
    job = Job(arm_of(one, name))
    first = one.measure(job, given, tmp_path)
    assert first.edited01.shape == first.truth01.shape == given.truth01.shape
    assert first.row["evaluations"] > 0
    asked = []
    encode_text = prior.encode_text
    monkeypatch.setattr(prior, "encode_text", lambda p, *_: asked.extend(p) or encode_text(p))
    again = one.measure(job, given, tmp_path)
    assert again.edited01.equal(first.edited01)
    assert {*asked} == {"invert the colours", ""}


def test_what_decides_a_result_is_told(domain):
    one, given = domain("video", updates=5), small_input(2)
    job = Job(arm_of(one, "csd"))
    before = plain(one.decides(job, given))
    assert before == plain(domain("video", updates=5).decides(job, small_input(2)))
    other_truth = dataclasses.replace(given, truth01=given.truth01 / 2)
    changes = [
        domain("video", updates=6).decides(job, given),
        one.decides(dataclasses.replace(job, seed=1), given),
        one.decides(dataclasses.replace(job, budget=0.5), given),
        one.decides(Job(arm_of(one, "csd-paper-t")), given),
        one.decides(job, dataclasses.replace(given, edit=all_edits()["sepia"])),
        one.decides(job, dataclasses.replace(given, source=given.source + 1)),
        one.decides(job, other_truth),
        one.decides(Job(arm_of(one, "source")), given),
    ]
    seen = {str(plain(change)) for change in changes}
    assert len(seen | {str(before)}) == len(changes) + 1


@pytest.mark.parametrize("medium", ["video", "panorama"])
def test_the_prior_s_own_pictures_are_measured_and_old_results_stay_valid(domain, medium):
    one = domain(medium, updates=5)
    job = Job(arm_of(one, "csd"))
    assert one.options(job).keep_detail is False
    told = one.decides(job, small_input(2))["options"]
    assert not {"keep_detail", "segmenter"} & {*told}
    assert ("region" in told) == (medium == "panorama")
    kept = domain(medium, updates=5, keep_detail=True).decides(job, small_input(2))
    assert kept["options"]["keep_detail"] is True


def test_seams_of_tiles_are_measured_where_they_are(prior):
    truth01 = torch.full((3, 96, 256), 0.5)
    edited01 = truth01.clone()
    edited01[:, :, 64:128] += 0.1
    shifted = edited01.roll(8, dims=2)
    # Three borders between columns, one of which has no step; and one each on the two rows.
    seam = measure_panorama(prior, edited01, truth01, stride=16)["seam"]
    assert seam == pytest.approx((2 / 3 * 0.1 + 0) / 2, abs=1e-6)
    assert measure_panorama(prior, shifted, truth01, stride=16)["seam"] < 0
    dark = truth01.clone()
    dark[:, :16] = 0.4
    places = measure_panorama(prior, dark, truth01)
    assert places["interior"] > 100
    share = 16 * 256 / (96 * 256 - 64 * 224)
    assert places["border"] == pytest.approx(-10 * np.log10(0.01 * share), abs=1e-4)
    assert places["corners"] == pytest.approx(-10 * np.log10(0.01 / 2), abs=1e-4)
