"""The editing stage around a scene that is nothing but images; no nerfstudio."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from image_scene import image_scene_class, live_scene_class, run_example
from tint_prior import RecordingPrior, TintPrior

from csd_nerf import priors
from csd_nerf.core.settings import EditSettings
from csd_nerf.media.pixels import resize01
from csd_nerf.scene import stage as stage_module
from csd_nerf.scene import updates
from csd_nerf.scene.controls import Controls, EditRequest, FixedControls
from csd_nerf.scene.options import StageOptions
from csd_nerf.scene.plan import Rounds
from csd_nerf.scene.protocol import LiveScene, Scene
from csd_nerf.scene.stage import EditingStage, StageState

ImageScene = image_scene_class()
WELL_EDITED = EditSettings(iterations=60, learning_rate=1.0, text_scale=1.0, mixing="none")


def photographs(count: int = 7, height: int = 48, width: int = 64) -> torch.Tensor:
    """Pictures that differ from each other everywhere."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 1, 1, generator=generator).expand(-1, -1, 3, 3)
    return resize01(coarse * torch.linspace(0.6, 1, 3), (height, width))


def options(**changes) -> StageOptions:
    usual = StageOptions(
        prompt="swap",
        source_steps=2,
        edit_steps=9,
        edit_every=3,
        edit_views=3,
        edit=EditSettings(iterations=1, text_scale=1.0),
    )
    return replace(usual, **changes)


def run(
    scene,
    asked,
    *,
    prior=None,
    controls=None,
    first_step=0,
    state=None,
    end=None,
    is_live=False,
    files=None,
):
    """The loop of a trainer; gives the stage, and the rounds that it did."""
    prior = prior or TintPrior()
    stage = EditingStage(scene, asked, prior=lambda: prior, controls=controls)
    stage.is_live, stage.keeper.files = is_live, files
    if state is not None:
        stage.load_state_dict(state)
    plan = stage.plan_run(first_step=first_step)
    done = []
    for step in range(first_step, plan.end if end is None else end):
        done.append(stage.before_step(step))
        scene.train_step()
    return stage, [report for report in done if report is not None]


def test_the_example_of_the_protocol_edits_a_scene_from_end_to_end(monkeypatch, capsys):
    def load(name):
        assert name == "tiny"
        return TintPrior()

    monkeypatch.setattr(priors, "load", load)
    names = run_example()
    scene = names["scene"]
    assert isinstance(scene, Scene)
    assert capsys.readouterr().out == "begins to edit\n"
    # Three rounds of two views: each of the six had its turn.
    assert sorted(scene.edited) == list(range(6))
    for view, image in scene.edited.items():
        edited01 = image.permute(2, 0, 1) / 255
        assert (scene.images01[view] - edited01).abs().max() < 0.01
        assert (scene.photographs01[view] - edited01).abs().mean() > 0.1


def test_a_scene_turns_into_the_edit_of_its_own_photographs():
    """Every view is given its own edit: shifted by one, all would be far off."""
    scene = ImageScene(photographs())
    run(scene, options(edit=WELL_EDITED, start="original"))
    swapped = scene.photographs01.flip(1)
    edited = torch.stack([scene.edited[view] for view in range(7)]).permute(0, 3, 1, 2) / 255
    assert (edited - swapped).abs().mean((1, 2, 3)).max() < 0.01
    assert (edited - swapped.roll(1, 0)).abs().mean((1, 2, 3)).min() > 0.03
    assert (scene.images01 - swapped).abs().mean((1, 2, 3)).max() < 0.05


def test_rounds_come_when_they_are_due_and_views_take_turns():
    scene = ImageScene(photographs())
    stage, rounds = run(scene, options())
    assert (stage.plan.first_edit, stage.plan.end) == (2, 11)
    assert [report.step for report in rounds] == [2, 5, 8]
    assert [report.index for report in rounds] == [0, 1, 2]
    views = [view for report in rounds for view in report.edits]
    assert len(views) == 9
    assert sorted(views[:7]) == list(range(7))
    assert rounds[0].names == [f"image {view}" for view in rounds[0].edits]
    assert stage.state.evaluations == sum(report.metrics["evaluations"] for report in rounds) > 0


def test_the_prior_is_asked_for_at_the_first_round_and_no_sooner():
    def refuse():
        raise AssertionError("too early")

    stage = EditingStage(ImageScene(photographs()), options(), prior=refuse)
    stage.plan_run()
    assert [stage.before_step(step) for step in range(2)] == [None, None]
    with pytest.raises(AssertionError, match="too early"):
        stage.before_step(2)


@pytest.mark.parametrize(("update", "together"), [("csd", 3), ("ip2p", 3), ("in2n", 1)])
def test_rounds_are_asked_for_as_the_options_say(update, together):
    prior = RecordingPrior()
    asked = options(
        negative_prompt="fog",
        edit=EditSettings(iterations=2, max_batch=4),
        update=update,
        denoising_steps=2,
    )
    run(ImageScene(photographs()), asked, prior=prior)
    assert len(prior.asked) == 3 * 2 * (3 // together)
    for texts, shape, max_batch in prior.asked:
        assert set(texts) == {"swap", "fog"}
        # The preferred size is 32, and heights and widths are multiples of 8.
        assert shape == (together, 3, 24, 40)
        assert max_batch == 4


def test_share_and_order_of_timesteps_reach_every_round(tmp_path):
    prior = RecordingPrior()
    settings = EditSettings(iterations=4, t_range=(0.1, 0.9), source_share=0.0, t_order="falling")
    _, rounds = run(ImageScene(photographs()), options(edit=settings), prior=prior)
    # Without the source's two estimates, three are left.
    assert {len(texts) for texts, _, _ in prior.asked} == {3}
    for first in range(0, len(prior.timesteps), 4):
        one = prior.timesteps[first : first + 4]
        assert one[0] >= 800
        assert one[-1] <= 200
    record = json.loads(rounds[0].save(tmp_path).with_suffix(".json").read_text())["settings"]
    assert (record["source_share"], record["t_order"]) == (0.0, "falling")


@pytest.mark.parametrize(("update", "every", "views"), [("in2n", 10, 1), ("csd", 6, 5)])
def test_a_schedule_that_is_not_given_is_the_update_s(update, every, views):
    asked = options(
        update=update,
        edit_every=None,
        edit_views=None,
        default_rounds=Rounds(every=6, views=5),
        edit_steps=20,
        denoising_steps=1,
    )
    scene = ImageScene(photographs())
    _, rounds = run(scene, asked)
    assert [report.step for report in rounds] == list(range(2, 22, every))
    assert [len(report.edits) for report in rounds] == [views] * len(rounds)


def test_the_range_of_noise_levels_reaches_in2n(monkeypatch):
    given = []
    sample = updates._sample
    monkeypatch.setattr(
        updates, "_sample", lambda *a, **k: given.append(k["level"]) or sample(*a, **k)
    )
    run(ImageScene(photographs()), options(update="in2n", noise_range=(0.5, 0.51)))
    assert len(given) == 9
    assert all(0.5 <= level <= 0.51 for level in given)


def test_views_are_edited_at_the_size_that_is_asked_for():
    prior = RecordingPrior()
    run(ImageScene(photographs()), options(edit_size=64), prior=prior)
    assert {shape for _, shape, _ in prior.asked} == {(3, 3, 56, 72)}


@pytest.mark.parametrize(
    ("update", "start", "renders"),
    [
        ("csd", "original", False),
        ("csd", "render", True),
        ("in2n", "original", True),
        ("ip2p", "render", False),
    ],
)
def test_what_an_update_starts_from(update, start, renders):
    scene = ImageScene(photographs())
    # What the scene shows before its first training step: a grey of its own in each view.
    greys = torch.linspace(0.2, 0.8, scene.num_views)
    scene.images01 = greys[:, None, None, None].expand(-1, 3, 48, 64).clone()
    asked = options(update=update, start=start, source_steps=0, denoising_steps=1)
    _, rounds = run(scene, asked, end=1)
    for view, edit in rounds[0].edits.items():
        original = resize01(scene.photographs01[view][None], (24, 40))[0]
        assert torch.equal(edit.source01, original)
        expected = greys[view].expand_as(original) if renders else original
        assert torch.allclose(edit.start01, expected, atol=1e-6)


@pytest.mark.parametrize("repeat", [False, True])
def test_rounds_draw_the_same_noise_if_asked_to(repeat):
    """Views are grey and alike, so that only what is drawn tells their edits apart."""
    scene = ImageScene(photographs()[:1].expand(6, -1, -1, -1).clone())
    barely = EditSettings(iterations=2, learning_rate=1.0, text_scale=1.0)
    asked = options(edit=barely, start="original", repeat_noise=repeat)
    _, rounds = run(scene, asked, end=7)
    assert sorted(view for report in rounds for view in report.edits) == list(range(6))
    edits = [scene.edited[next(iter(report.edits))] for report in rounds]
    assert torch.equal(*edits) == repeat
    again = ImageScene(photographs()[:1].expand(6, -1, -1, -1).clone())
    run(again, replace(asked, seed=1), end=7)
    assert not torch.equal(again.edited[0], scene.edited[0])


def test_another_seed_takes_views_in_another_order_and_draws_other_noise():
    orders, edits = [], []
    for seed in (0, 0, 1):
        scene = ImageScene(photographs())
        _, rounds = run(scene, options(seed=seed, edit_views=7, start="original"), end=3)
        orders.append(list(rounds[0].edits))
        edits.append(torch.stack([rounds[0].edits[view].edited01 for view in range(7)]))
    assert orders[0] == orders[1] != orders[2]
    assert torch.equal(edits[0], edits[1])
    assert not torch.equal(edits[0], edits[2])


def test_photographs_keep_their_fine_detail_when_asked():
    fine = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    barely = EditSettings(iterations=1, learning_rate=1e-6, text_scale=1.0)
    off = {}
    for keep in (True, False):
        scene = ImageScene(fine)
        run(scene, options(edit=barely, start="original", keep_detail=keep), end=3)
        off[keep] = (scene.edited[0].permute(2, 0, 1) / 255 - fine[0]).abs().mean()
    assert off[True] < 0.004
    assert off[False] > 0.02


class Wishes(Controls):
    """Controls whose requests are changed at some steps."""

    def __init__(self, asked: StageOptions, changes: dict[int, dict]) -> None:
        self._usual = asked.request()
        self._changes, self.editing = changes, []

    def read(self, *, editing: bool) -> EditRequest:
        self.editing.append(editing)
        return replace(self._usual, **self._changes.get(len(self.editing) - 1, {}))


def test_what_the_user_changes_reaches_the_round():
    asked, prior = options(), RecordingPrior()
    other = EditSettings(iterations=3, text_scale=1.0)
    controls = Wishes(asked, {5: {"prompt": "make it snow", "settings": other}})
    _, rounds = run(ImageScene(photographs()), asked, prior=prior, controls=controls)
    assert controls.editing == [False] * 2 + [True] * 9
    assert [report.request.prompt for report in rounds] == ["swap", "make it snow", "swap"]
    snow = ["make it snow" in texts for texts, _, _ in prior.asked]
    assert snow == [False, True, True, True, False]


def test_rounds_can_be_paused_and_asked_for():
    asked = options(edit_steps=6)
    changes = {2: {"paused": True}, 3: {"edit_now": True}, 5: {"paused": True}}
    changes |= {1: {"edit_now": False}}
    scene = ImageScene(photographs())
    _, rounds = run(scene, asked, controls=Wishes(asked, changes), end=6)
    assert [report.step for report in rounds] == [3]
    assert len(scene.edited) == 3


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 7])
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(stop, capsys):
    """Also the order of views that still wait, through what torch.load calls safe."""
    whole = ImageScene(photographs())
    _, rounds = run(whole, options())

    first = ImageScene(photographs())
    stage, before = run(first, options(), end=stop)
    file = io.BytesIO()
    torch.save(stage.state_dict(), file)
    file.seek(0)
    second = ImageScene(photographs())
    second.images01 = first.images01.clone()
    capsys.readouterr()
    state = torch.load(file, weights_only=True)
    _, after = run(second, options(), first_step=stop, state=state)

    assert [list(r.edits) for r in before + after] == [list(r.edits) for r in rounds]
    counts = [[r.metrics["evaluations_so_far"] for r in run] for run in (before + after, rounds)]
    assert counts[0] == counts[1]
    assert torch.equal(whole.images01, second.images01)
    told = capsys.readouterr().out
    assert told == ("goes on editing\n" if stop > 2 else "begins to edit\n")


def test_a_trained_scene_is_edited_at_once():
    stage = EditingStage(ImageScene(photographs()), options(), prior=TintPrior)
    plan = stage.plan_run(first_step=40, source_is_trained=True)
    assert (plan.first_edit, plan.end) == (40, 49)
    assert stage.before_step(40) is not None


def test_of_many_small_rounds_few_want_a_picture(monkeypatch):
    monkeypatch.setattr(stage_module, "PICTURE_EVERY", 4)
    asked = options(update="in2n", edit_views=1, edit_every=1, denoising_steps=1)
    controls = Wishes(asked, {5: {"edit_now": True}})
    _, rounds = run(ImageScene(photographs()), asked, controls=controls)
    assert [report.step for report in rounds if report.wants_picture] == [2, 5, 9]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"edit_every": 0}, "edit_every needs to be at least 1, got 0"),
        ({"edit_views": -1}, "edit_views needs to be at least 1, got -1"),
        (
            {"noise_range": (0.9, 0.7)},
            r"noise_range needs 0 <= low < high <= 1 .*, got \(0.9, 0.7\)",
        ),
        (
            {"noise_range": (0.1, float("nan"))},
            r"noise_range needs to be finite, got \(0.1, nan\)",
        ),
        ({"denoising_steps": 0}, "denoising_steps needs to be at least 1, got 0"),
        ({"source_steps": -1}, "source_steps can't be negative"),
    ],
)
def test_numbers_that_make_no_sense(changes, text):
    with pytest.raises(ValueError, match=text):
        StageOptions(**changes)


def test_without_controls_the_options_stay_as_they_are():
    request = EditRequest("swap", "fog", "", EditSettings())
    fixed = FixedControls(request)
    assert fixed.read(editing=False) is fixed.read(editing=True) is request
    assert StageState().first_edit is None


def test_the_example_of_a_live_scene_is_one():
    scene = live_scene_class()(photographs())
    assert isinstance(scene, LiveScene)
    assert not isinstance(ImageScene(photographs()), LiveScene)
    before = scene.snapshot()
    scene.keep_unedited()
    scene.set_edited({0: torch.zeros(48, 64, 3, dtype=torch.uint8)})
    scene.train_step()
    assert torch.equal(scene.render_unedited(0, size=(48, 64)).image01, before["images01"][0])
    scene.restore(before)
    assert torch.equal(scene.images01, before["images01"])
    assert scene.edited == {}
