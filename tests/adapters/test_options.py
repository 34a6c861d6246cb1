from __future__ import annotations

import pytest

from csd_nerf.adapters.options import PanoramaOptions, VideoOptions


def test_the_release_preset_draws_by_chance_with_a_noise_for_each():
    for kind in (PanoramaOptions, VideoOptions):
        full, release = kind().values(), kind(preset="release").values()
        changed = {k for k, v in vars(release).items() if v != getattr(full, k)}
        assert changed == {"noise", "drawing", "taper"}
        assert (release.noise, release.drawing, release.taper) == ("independent", "uniform", 0)
        assert kind(preset="release", drawing="balanced").values().drawing == "balanced"


def test_plain_sampling_of_frames_takes_noise_of_their_own_unless_told():
    for preset in ("full", "tiny"):
        assert VideoOptions(preset=preset, method="ip2p").values().noise == "independent"
        assert VideoOptions(preset=preset, method="ip2p", noise="shared").values().noise == "shared"
        assert VideoOptions(preset=preset, method="csd").values().noise == "shared"


def test_given_values_go_over_the_method_and_the_method_over_the_preset():
    sds = VideoOptions(preset="tiny", method="sds").values()
    csd = VideoOptions(preset="tiny").values()
    assert sds.text_scale != csd.text_scale
    assert VideoOptions(preset="tiny", method="sds", text_scale=9.0).values().text_scale == 9.0
    assert PanoramaOptions(preset="tiny", t_range=(0.1, 0.2)).values().t_range == (0.1, 0.2)


@pytest.mark.parametrize("kind", [PanoramaOptions, VideoOptions])
@pytest.mark.parametrize("preset", ["full", "small", "release", "tiny"])
def test_presets_take_the_paper_s_share_and_order_unless_told(kind, preset):
    values = kind(preset=preset).values()
    assert (values.source_share, values.t_order) == (1.0, "random")
    told = kind(preset=preset, source_share=0.0, t_order="falling").values()
    assert (told.source_share, told.t_order) == (0.0, "falling")


@pytest.mark.parametrize("kind", [PanoramaOptions, VideoOptions])
def test_an_edit_without_any_instruction_is_refused(kind):
    kind(prompt="fog").check_prompt()
    with pytest.raises(ValueError, match=r"--prompt needs an instruction, got '  '; give"):
        kind(prompt="  ").check_prompt()


def test_a_region_s_instruction_is_enough():
    PanoramaOptions(region=("fog@0,0,1,1",)).check_prompt()
