from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from csd_nerf.synthetic.cameras import Cameras
from csd_nerf.synthetic.edits import all_edits
from csd_nerf.synthetic.looks import LOOKS
from csd_nerf.synthetic.render import render
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, Scenes, draw_scenes
from csd_nerf.synthetic.videos import Video, draw_video, find_video, render_video

SEED = SPLIT_SEEDS["validation"][5]


def frames_of(video: Video, edit: str | None = None) -> Tensor:
    return render_video(video, None if edit is None else all_edits()[edit], height=24, width=24)


def colours(scenes: Scenes, cameras: Cameras) -> Tensor:
    return render(scenes, cameras, height=24, width=24).image01


def test_the_camera_goes_round_on_an_arc_at_one_height():
    turns = []
    for seed in SPLIT_SEEDS["validation"][:8]:
        eye = draw_video(seed, frames=5).cameras.camera_to_world[:, :, 3].double()
        torch.testing.assert_close(eye.norm(dim=1), torch.full((5,), 4.8).double())
        torch.testing.assert_close(eye[:, 2], eye[:1, 2].expand(5))
        azimuth = torch.atan2(eye[:, 1], eye[:, 0])
        step = torch.remainder(azimuth.diff() + math.pi, 2 * math.pi) - math.pi
        torch.testing.assert_close(step, step[:1].expand(4), atol=1e-5, rtol=0)
        turns.append(math.degrees(float(step.sum())))
    assert all(25 <= abs(turn) <= 45 for turn in turns)
    assert min(turns) < 0 < max(turns)


def test_one_object_moves_outwards_and_the_rest_of_the_scene_stays():
    video, scene = draw_video(SEED, frames=4), draw_scenes([SEED])
    moved = video.scenes.position - scene.position
    slots = (moved.abs().amax(dim=(0, 2)) > 0).nonzero().flatten()
    assert len(slots) == 1
    assert scene.present[0, slots[0]]
    start, path = scene.position[0, slots[0]], moved[:, slots[0]]
    length = path @ start / start.norm()
    torch.testing.assert_close(length, float(length[-1]) * torch.tensor([0, 1 / 3, 2 / 3, 1]))
    torch.testing.assert_close(length, path.norm(dim=1))
    assert 0.3 <= length[-1] <= 0.8
    for field in dataclasses.fields(scene):
        if field.name != "position":
            once = getattr(scene, field.name)
            assert getattr(video.scenes, field.name).equal(once.expand(4, *once.shape[1:]))


def test_frames_show_the_scene_of_their_time_and_its_edit():
    video = draw_video(SEED, frames=3)
    source01 = frames_of(video)
    matrices, focals = video.cameras.camera_to_world, video.cameras.focal
    for frame in range(3):
        camera = Cameras(matrices[frame : frame + 1], focals[frame : frame + 1])
        alone = colours(video.scenes[frame], camera)
        torch.testing.assert_close(source01[frame], alone[0], atol=1e-4, rtol=0)
    assert (source01[0] - source01[1]).abs().mean() > 0.005
    assert frames_of(video, "sepia").equal(LOOKS["sepia"](source01))
    lava = frames_of(video, "floor lava")
    assert ((lava - source01).abs().mean(dim=(1, 2, 3)) > 0.03).all()


def test_a_seed_decides_the_video_whatever_the_number_of_frames():
    coarse, fine = draw_video(SEED, frames=3), draw_video(SEED, frames=5)
    torch.testing.assert_close(coarse.scenes.position, fine.scenes.position[::2])
    torch.testing.assert_close(coarse.cameras.camera_to_world, fine.cameras.camera_to_world[::2])
    other = frames_of(draw_video(SEED + 1, frames=3))
    assert (frames_of(coarse) - other).abs().mean() > 0.02


def test_a_video_without_frames_is_refused():
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        draw_video(SEED, frames=0)


def test_the_video_that_is_found_shows_what_the_edit_names_in_every_frame():
    edit = all_edits()["sphere blue"]
    found = find_video(edit, "validation", skip=10, frames=3)
    assert found.scenes.present[:, 0].all()
    bare = dataclasses.replace(found.scenes, present=found.scenes.present & ~torch.eye(4).bool()[0])
    changed = (colours(found.scenes, found.cameras) != colours(bare, found.cameras)).any(1)
    assert (changed.float().mean(dim=(1, 2)) > 0.03).all()
    assert (found.scenes.colour[:, 0] != 2).all()


def test_an_edit_that_no_video_shows_is_refused(monkeypatch):
    monkeypatch.setitem(SPLIT_SEEDS, "validation", range(SEED, SEED + 3))
    nothing = dataclasses.replace(all_edits()["floor lava"], name="nothing", target=9)
    with pytest.raises(ValueError, match=r"No video of validation from 1 on .*'nothing'"):
        find_video(nothing, "validation", skip=1, frames=1)
