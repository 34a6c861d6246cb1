from __future__ import annotations

from typing import Any

import pytest

from csd_nerf.adapters.options import PanoramaOptions, VideoOptions


@pytest.mark.parametrize("preset", ["full", "small"])
def test_panoramas_take_the_paper_s_rate_and_image_scale(preset):
    """Appendix B.1: "learning rate of 2.0 and image guidance scale of 1.5"."""
    values = PanoramaOptions(preset=preset).values()
    assert (values.learning_rate, values.image_scale, values.condition) == (2.0, 1.5, "raw")


@pytest.mark.parametrize(
    ("given", "option"), [("updates", "iterations"), ("decays", "decay_every")]
)
def test_a_number_that_is_given_displaces_the_release_s_other_way_to_say_it(given, option):
    for kind in (PanoramaOptions, VideoOptions):
        assert getattr(kind(preset="release").values(), option) is not None
        assert getattr(kind(preset="release", **{given: 7}).values(), option) is None
    assert VideoOptions(preset="release", iterations=9, updates=7).values().iterations == 9


def test_what_the_release_s_models_never_saw_stays_as_in_full():
    for kind, method in ((PanoramaOptions, "ip2p-windows"), (VideoOptions, "ip2p")):
        values = kind(preset="release", method=method).values()
        assert (values.condition, values.image_scale) == ("raw", 1.5)
    assert VideoOptions(preset="release", method="ip2p").values().batch == 8
    dds = VideoOptions(preset="release", residual="dds", source_prompt="a man").values()
    assert dds.condition == "raw"


def test_plain_sampling_of_frames_takes_noise_of_their_own_unless_told():
    for preset in ("full", "tiny"):
        assert VideoOptions(preset=preset, method="ip2p").values().noise == "independent"
        assert VideoOptions(preset=preset, method="ip2p", noise="shared").values().noise == "shared"
        assert VideoOptions(preset=preset, method="csd-no-stein").values().noise == "shared"


def test_given_values_go_over_the_method_and_the_method_over_the_preset():
    sds = VideoOptions(preset="tiny", method="sds").values()
    csd = VideoOptions(preset="tiny").values()
    assert sds.t_range != csd.t_range
    assert VideoOptions(preset="tiny", method="sds", text_scale=9.0).values().text_scale == 9.0
    assert PanoramaOptions(preset="tiny", t_range=(0.1, 0.2)).values().t_range == (0.1, 0.2)


@pytest.mark.parametrize("kind", [PanoramaOptions, VideoOptions])
@pytest.mark.parametrize("preset", ["full", "small", "release", "tiny"])
def test_presets_take_the_paper_s_share_and_order_unless_told(kind, preset):
    values = kind(preset=preset).values()
    assert values.source_share == (0.25 if preset == "tiny" else 1.0)
    for method in ("csd-no-stein", "sds"):
        assert kind(preset=preset, method=method).values().source_share == 1.0
    dds = {"preset": preset, "residual": "dds", "source_prompt": "a photo of a man"}
    assert kind(**dds).values().source_share == 1.0
    assert kind(**dds, source_share=0.5).values().source_share == 0.5
    assert (values.t_order == "random") == (preset != "tiny")
    told = kind(preset=preset, source_share=0.0, t_order="falling").values()
    assert (told.source_share, told.t_order) == (0.0, "falling")


@pytest.mark.parametrize("kind", [PanoramaOptions, VideoOptions])
def test_only_the_tiny_preset_departs_from_the_paper_s_mixing(kind):
    def mixing(preset: Any, method: Any = "csd") -> tuple[str, str]:
        values = kind(preset=preset, method=method).values()
        return values.mixing, values.noise

    assert mixing("full") == mixing("small") == ("stein", "shared")
    assert mixing("release") == ("stein", "independent")
    assert mixing("tiny") == ("patch", "independent")
    for method in ("csd-no-stein", "sds"):
        assert mixing("tiny", method) == ("none", "shared")


@pytest.mark.parametrize("kind", [PanoramaOptions, VideoOptions])
def test_an_edit_without_any_instruction_is_refused(kind):
    kind(prompt="fog").check_prompt()
    with pytest.raises(ValueError, match=r"--prompt needs an instruction, got '  '; give"):
        kind(prompt="  ").check_prompt()


def test_a_region_s_instruction_is_enough():
    PanoramaOptions(region=("fog@0,0,1,1",)).check_prompt()


@pytest.mark.parametrize("preset", ["full", "small", "tiny"])
def test_a_prior_that_is_named_brings_its_own_numbers(preset):
    ours = PanoramaOptions(prompt="x", preset=preset).values()
    other = PanoramaOptions(prompt="x", preset=preset, prior="flux2-klein").values()
    assert (other.text_scale, other.image_scale, other.t_range) == (4.0, 1.0, (0.02, 0.98))
    given = {"text_scale": 3.0, "t_range": (0.1, 0.6)}
    named = PanoramaOptions(prompt="x", preset=preset, prior="flux2-klein", **given).values()
    assert (named.text_scale, named.image_scale, named.t_range) == (3.0, 1.0, (0.1, 0.6))
    released = PanoramaOptions(prompt="x", preset="release", prior="flux2-klein").values()
    assert (released.text_scale, released.image_scale) == (7.5, 5.0)
    # The preset's own prior has the preset's numbers, and so has one that isn't there yet.
    for prior in (ours.prior, "some/model"):
        same = PanoramaOptions(prompt="x", preset=preset, prior=prior).values()
        assert (same.text_scale, same.t_range) == (ours.text_scale, ours.t_range)


@pytest.mark.parametrize("kind", [PanoramaOptions, VideoOptions])
@pytest.mark.parametrize("preset", ["full", "small", "release", "tiny"])
def test_velocities_bring_their_numbers_unless_told(kind, preset):
    usual = kind(preset=preset).values()
    assert (usual.quantity, usual.shift) == ("noise", 1.0)
    values = kind(preset=preset, quantity="velocity").values()
    assert (values.quantity, values.shift) == ("velocity", 1.0)
    assert (values.learning_rate, values.decay, values.t_order) == (1.0, 1.0, "falling")
    assert values.normalize == "rowsum"
    assert values.t_range == usual.t_range
    given = {"learning_rate": 0.5, "decay": 0.8, "t_order": "random", "shift": 0.25}
    told = kind(preset=preset, quantity="velocity", **given).values()
    assert {name: getattr(told, name) for name in given} == given


@pytest.mark.parametrize("kind", [PanoramaOptions, VideoOptions])
def test_shifts_are_for_velocities_and_within_range(kind):
    with pytest.raises(ValueError, match=r"--shift needs --quantity velocity, got 0.5 without it;"):
        kind(shift=0.5)
    for shift in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"--shift must be from 0 to 1, got"):
            kind(quantity="velocity", shift=shift)
