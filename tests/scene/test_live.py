"""What a user asks of the stage while a scene is trained: going back, previews, edits on edits."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from image_scene import image_scene_class, live_scene_class
from PIL import Image
from test_stage import WELL_EDITED, Wishes, options, photographs, run
from tint_prior import RecordingPrior, TintPrior

from csd_nerf.core.settings import EditSettings
from csd_nerf.media.pixels import resize01, to_01, to_bytes
from csd_nerf.scene import progress, rounds
from csd_nerf.scene.history import History
from csd_nerf.scene.stage import EditingStage, RequestError, RoundError

LiveImageScene = live_scene_class()
SIZE = (24, 40)
"""At which the views are edited."""


class Recorder(Wishes):
    """Wishes, and what was shown."""

    def __init__(self, asked, changes):
        super().__init__(asked, changes)
        self.told, self.histories, self.previews = [], [], []

    def show_progress(self, progress):
        self.told.append(progress)

    def show_history(self, rounds):
        self.histories.append([past.index for past in rounds])

    def show_preview(self, before01, after01):
        self.previews.append((before01, after01))


class SourcePrior(TintPrior):
    """Remembers the images that it was shown as sources."""

    def __init__(self):
        self.sources01 = []

    def encode_source(self, image01):
        self.sources01.append(image01)
        return super().encode_source(image01)


LAST: list[list[int]] = []


@pytest.fixture(autouse=True)
def _last_views(monkeypatch):
    """Remember the views of each round."""
    LAST.clear()
    draw = EditingStage._edit_round

    def edit_round(stage, request, step):
        report = draw(stage, request, step)
        LAST.append(list(report.edits))
        return report

    monkeypatch.setattr(EditingStage, "_edit_round", edit_round)


def live(folder, asked, changes, *, scene=None, prior=None, **given):
    """A run with a user; gives the scene, the stage, the rounds and the controls."""
    scene = LiveImageScene(photographs()) if scene is None else scene
    controls = Recorder(asked, changes)
    files = History(folder / "history")
    given = {"is_live": True, "files": files, **given}
    stage, rounds = run(scene, asked, prior=prior, controls=controls, **given)
    return SimpleNamespace(scene=scene, stage=stage, rounds=rounds, controls=controls, files=files)


def same(first, second):
    assert torch.equal(first.images01, second.images01)
    assert first.edited.keys() == second.edited.keys()
    assert all(torch.equal(image, second.edited[view]) for view, image in first.edited.items())


def test_going_back_leaves_what_there_was_before_the_next_round(tmp_path):
    """Rounds 0, 1 and 2 come before steps 2, 5 and 8."""
    asked = options(edit_views=2, start="original")
    there = LiveImageScene(photographs())
    run(there, asked, end=5)
    found = live(tmp_path, asked, {9: {"return_to": 0, "paused": True}}, end=9)
    # The loop trains once more after each stage; what the stage itself leaves is compared.
    stage, scene = found.stage, found.scene
    stage.before_step(9)
    same(scene, there)
    assert (stage.state.rounds, stage.state.waiting) == (1, found.stage.state.waiting)
    assert found.controls.histories[-1] == [0]
    assert sorted(path.name for path in found.files.folder.iterdir()) == ["round-000-2.pt"]
    # The next round is the one that was undone.
    again = stage._edit_round(replace(asked.request(), edit_now=True), 10)
    assert list(again.edits) == list(found.rounds[1].edits)
    for view, edit in again.edits.items():
        assert torch.equal(edit.edited01, found.rounds[1].edits[view].edited01)
    assert again.index == 1
    assert again.metrics["evaluations_so_far"] > found.rounds[2].metrics["evaluations_so_far"]


def test_the_unedited_scene_comes_back_at_once_and_nothing_is_remembered(tmp_path):
    asked = options(start="original", seed=3)
    there = LiveImageScene(photographs())
    run(there, asked, end=2)
    found = live(tmp_path, asked, {8: {"return_to": -1, "paused": True}}, end=8)
    found.stage.before_step(8)
    same(found.scene, there)
    assert found.controls.histories[-1] == []
    assert list(found.files.folder.iterdir()) == []
    state = found.stage.state
    assert (state.rounds, state.waiting, state.reference, state.history) == (0, [], None, [])
    assert state.first_edit == 2
    # Training must not have changed what is kept.
    found.scene.train_step()
    found.stage._return(-1)
    same(found.scene, there)


def test_a_run_can_be_resumed_after_going_back_and_goes_on_the_same(tmp_path):
    asked = options(start="original")
    changes = {6: {"return_to": 0}}
    # A resumed run numbers its requests anew.
    whole = live(tmp_path / "whole", asked, changes)
    first = live(tmp_path / "first", asked, changes, end=7)
    file = io.BytesIO()
    torch.save(first.stage.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    scene = LiveImageScene(photographs())
    scene.images01 = first.scene.images01.clone()
    second = live(tmp_path / "first", asked, {}, scene=scene, first_step=7, state=state)
    same(whole.scene, second.scene)
    assert [past.index for past in second.stage.state.history] == [0, 1]


@pytest.mark.parametrize(("limit", "kept"), [(0, []), (1, [2]), (2, [1, 2]), (8, [0, 1, 2])])
def test_no_more_rounds_are_kept_than_asked_for(tmp_path, limit, kept):
    asked = options(edit_steps=10, history=limit)
    found = live(tmp_path, asked, {})
    names = [f"round-{index:03d}-{2 + 3 * index}.pt" for index in kept]
    assert sorted(path.name for path in tmp_path.rglob("*.pt")) == names
    # The last round is shown too: its end is what there is.
    assert found.controls.histories[-1] == [*kept, 3]
    alone = live(tmp_path / "alone", asked, {}, is_live=False)
    assert list((tmp_path / "alone").rglob("*.pt")) == []
    same(alone.scene, found.scene)


def test_a_return_that_fails_leaves_what_was_there(tmp_path):
    asked = options(start="original")
    found = live(tmp_path, asked, {9: {"return_to": 0}, 10: {"return_to": 7}}, end=9)
    before, state = found.scene.snapshot(), found.stage.state
    (tmp_path / "history/round-000-2.pt").write_bytes(b"damaged")
    with pytest.raises(RequestError, match=r"can't go back: What the scene was must be in .*000-2"):
        found.stage.before_step(9)
    with pytest.raises(RequestError, match=r"round that is kept, got 7 of \[0, 1\]"):
        found.stage.before_step(10)
    assert torch.equal(found.scene.images01, before["images01"])
    assert found.scene.edited.keys() == before["edited"].keys()
    assert found.stage.state == replace(state, owed=False)
    assert "can't go back" in found.controls.told[-1].text


def test_the_end_of_the_last_round_is_where_the_scene_is(tmp_path):
    asked = options()
    plain = live(tmp_path / "plain", asked, {})
    found = live(tmp_path / "asked", asked, {6: {"return_to": 1}})
    same(found.scene, plain.scene)
    assert found.controls.histories[-1] == [0, 1, 2]


def test_a_round_that_is_due_while_paused_comes_once_when_editing_goes_on(tmp_path):
    asked = options(edit_every=2)
    paused = {step: {"paused": True} for step in range(3, 8)}
    found = live(tmp_path, asked, paused)
    # Those of steps 4 and 6 become one at 8, which is due itself.
    assert [report.step for report in found.rounds] == [2, 8, 10]
    paused[8] = {"paused": True}
    assert [r.step for r in live(tmp_path, asked, paused).rounds] == [2, 9, 10]
    now = {**paused, 7: {"paused": True, "edit_now": True}, 8: {}}
    assert [r.step for r in live(tmp_path, asked, now).rounds] == [2, 7, 8, 10]


def test_a_round_owed_is_owed_by_a_resumed_run_too(tmp_path):
    asked = options(edit_every=2)
    first = live(tmp_path, asked, {step: {"paused": True} for step in range(2, 5)}, end=5)
    second = live(
        tmp_path / "2", asked, {}, first_step=5, state=first.stage.state_dict(), is_live=False
    )
    assert [report.step for report in first.rounds + second.rounds][:2] == [5, 6]


def test_views_and_seed_of_the_request_are_heeded(tmp_path):
    asked = options(start="original", edit=EditSettings(iterations=2, text_scale=1.0))
    first, second = (
        live(tmp_path / str(seed), asked, {2: {"views": 2, "seed": seed}}, end=3) for seed in (0, 5)
    )
    assert [len(found.rounds[0].edits) for found in (first, second)] == [2, 2]
    assert list(first.rounds[0].edits) != list(second.rounds[0].edits)
    third = live(tmp_path / "3", replace(asked, seed=5, edit_views=2), {}, end=3)
    assert list(third.rounds[0].edits) == list(second.rounds[0].edits)
    view = next(iter(third.rounds[0].edits))
    assert torch.equal(third.scene.edited[view], second.scene.edited[view])
    everything = live(tmp_path / "4", asked, {2: {"views": 1000}}, end=3)
    assert len(everything.rounds[0].edits) == 7


def shown(scene, view) -> torch.Tensor:
    return resize01(scene.images01[view][None], SIZE)[0]


@pytest.mark.parametrize("keep_detail", [False, True])
def test_edits_on_top_of_edits_take_what_the_scene_showed(tmp_path, keep_detail):
    asked = options(edit=WELL_EDITED, edit_views=7, start="original", keep_detail=keep_detail)
    # Of two prompts, the second is on top, and has two rounds.
    on_top = {step: {"prompt": "again", "chain": True} for step in range(5, 9)}
    prior = SourcePrior()
    found = live(tmp_path, asked, on_top, prior=prior, end=5)
    stage, scene = found.stage, found.scene
    before = scene.images01.clone()
    stage.before_step(5)
    for _ in range(3):
        scene.train_step()
    after = scene.images01.clone()
    stage.before_step(6), stage.before_step(7)
    stage.before_step(8)
    expected = resize01(before, SIZE)
    for source01, views in zip(prior.sources01[1:], LAST[1:], strict=True):
        assert torch.equal(source01, expected[views])
    assert len(LAST) == 3
    assert not torch.equal(before, after)
    # Swapped twice, red and blue are where they were.
    edited01 = torch.stack([scene.edited[v] for v in range(7)]).permute(0, 3, 1, 2) / 255
    assert (edited01 - before.flip(1)).abs().mean() < 0.02
    assert torch.equal(scene.unedited01, before)
    # The next prompt is on the photographs, and `unedited` is what they were.
    stage._controls._changes[9] = {"prompt": "third", "edit_now": True}
    stage.before_step(9)
    photographs01 = resize01(scene.photographs01, SIZE)
    assert torch.equal(prior.sources01[-1], photographs01[LAST[-1]])
    assert stage.state.base is None
    assert torch.equal(scene.unedited01, stage.keeper.source()["images01"])


def test_a_region_of_edits_on_top_of_edits_leaves_the_first_edit_beside_it(tmp_path):
    left = torch.zeros(48, 64)
    left[:, :24] = 1
    (tmp_path / "masks").mkdir()
    scene = LiveImageScene(photographs())
    for view in range(7):
        path = tmp_path / "masks" / scene.name(view)
        Image.fromarray((255 * left).byte().numpy()).save(path.with_suffix(".png"))
    asked = options(edit=WELL_EDITED, edit_views=7, start="original")
    on_top = {5: {"prompt": "again", "chain": True, "region": str(tmp_path / "masks")}}
    found = live(tmp_path, asked, on_top, scene=scene, end=5)
    before = scene.images01.clone()
    found.stage.before_step(5)
    edited01 = torch.stack([scene.edited[v] for v in range(7)]).permute(0, 3, 1, 2) / 255
    swapped = scene.photographs01.flip(1)
    # The scene is rendered at the size at which it is edited.
    source01 = to_01(to_bytes(resize01(resize01(before, SIZE), (48, 64))))
    assert torch.equal(edited01[..., 24:], source01[..., 24:])
    assert (edited01 - swapped)[..., 24:].abs().mean() < 0.03
    # Swapped twice, red and blue are where they were.
    assert (edited01 - before.flip(1))[..., :20].abs().mean() < 0.02


def test_on_the_command_line_chain_edits_the_scene_of_the_run_that_is_loaded(tmp_path):
    first = live(tmp_path, options(edit=WELL_EDITED), {}, is_live=False)
    assert list(tmp_path.rglob("*.pt")) == []
    state = first.stage.state_dict()
    begun = first.scene.images01.clone()
    asked = options(edit=WELL_EDITED, edit_steps=20, prompt="other", chain=True)

    def go_on(end, scene, first_step=11, state=state):
        prior = SourcePrior()
        found = live(
            tmp_path,
            asked,
            {},
            scene=scene,
            prior=prior,
            is_live=False,
            state=state,
            first_step=first_step,
            end=end,
        )
        return found, prior

    whole, prior = go_on(18, first.scene)
    assert [path.name for path in tmp_path.rglob("*.pt")] == ["base-003-11.pt"]
    for source01, views in zip(prior.sources01, LAST[-3:], strict=False):
        assert torch.equal(source01, resize01(begun, SIZE)[views])
    # A run that is resumed goes on with the same scene, from the file.
    saved = whole.stage.state_dict()
    scene = LiveImageScene(photographs())
    scene.images01 = whole.scene.images01.clone()
    _, prior = go_on(21, scene, first_step=18, state=saved)
    assert torch.equal(prior.sources01[-1], resize01(begun, SIZE)[LAST[-1]])
    assert [path.name for path in tmp_path.rglob("*.pt")] == ["base-003-11.pt"]


def test_without_chain_a_new_prompt_edits_the_photographs(tmp_path):
    prior = SourcePrior()
    asked = options(edit=WELL_EDITED)
    found = live(tmp_path, asked, {5: {"prompt": "other"}}, prior=prior, end=6)
    photographs01 = resize01(found.scene.photographs01, SIZE)
    for source01, views in zip(prior.sources01, LAST, strict=True):
        assert torch.equal(source01, photographs01[views])


def camera(view=2):
    return SimpleNamespace(view=view, height=48, width=64)


@pytest.mark.parametrize("update", ["csd", "in2n", "ip2p"])
def test_a_preview_shows_its_edit_and_changes_nothing(tmp_path, update):
    asked = options(edit=WELL_EDITED, update=update, denoising_steps=2)
    plain = live(tmp_path / "plain", asked, {})
    changes = {step: {"preview": camera(), "paused": step != 5} for step in (0, 4, 5, 7)}
    prior = SourcePrior()
    found = live(tmp_path / "asked", asked, changes, prior=prior, end=7)
    before = (found.scene.snapshot(), found.stage.state_dict(), torch.get_rng_state())
    found.stage.before_step(7)
    after = (found.scene.snapshot(), found.stage.state_dict(), torch.get_rng_state())
    assert torch.equal(before[0]["images01"], after[0]["images01"])
    assert repr(before[1]["stage"]) == repr(after[1]["stage"])
    assert torch.equal(before[2], after[2])
    assert len(found.controls.previews) == 4
    unedited01 = found.stage.keeper.source()["images01"][2]
    shown01, edited01 = found.controls.previews[-1]
    assert torch.equal(shown01, resize01(unedited01[None], SIZE)[0])
    assert edited01.shape == shown01.shape
    if update == "csd":
        assert (edited01 - shown01.flip(0)).abs().mean() < 0.01
    found.scene.train_step()
    for step in range(8, 11):
        found.stage._controls._changes = {}
        found.stage.before_step(step)
        found.scene.train_step()
    same(found.scene, plain.scene)


def test_a_preview_starts_where_a_round_does(tmp_path):
    barely = EditSettings(iterations=1, learning_rate=1e-6, text_scale=1.0)
    for start in ("render", "original"):
        asked = options(edit=barely, start=start, source_steps=1)
        found = live(tmp_path / start, asked, {4: {"preview": camera()}}, end=4)
        now01 = shown(found.scene, 2)
        found.stage.before_step(4)
        before01, after01 = found.controls.previews[0]
        expected = now01 if start == "render" else before01
        # What is shown has 8 bits.
        assert torch.allclose(after01, expected, atol=3e-3)
        assert not torch.allclose(before01, now01, atol=0.01)


def test_a_preview_shows_what_a_round_would_train_on(tmp_path, monkeypatch):
    def change(original, round_trip01, edited01):
        assert round_trip01.shape == edited01.shape
        return torch.full_like(original, 51)

    monkeypatch.setattr(rounds, "add_change", change)
    asked = options(keep_detail=True, source_steps=1)
    found = live(tmp_path, asked, {4: {"preview": camera()}}, end=4)
    found.stage.before_step(4)
    shown01, after01 = found.controls.previews[0]
    assert shown01.shape == after01.shape
    assert torch.allclose(after01, torch.full_like(after01, 0.2))


@pytest.mark.parametrize("update", ["csd", "in2n", "ip2p"])
def test_progress_is_told_in_words_and_numbers(tmp_path, monkeypatch, update):
    monkeypatch.setattr(progress, "TELL_EVERY", 0.0)
    monkeypatch.setattr(progress, "HOLD", 0.0)
    asked = options(edit=replace(WELL_EDITED, iterations=3), update=update, denoising_steps=2)
    asked = replace(asked, edit_every=3, edit_steps=5)
    changes = {3: {"paused": True}, 4: {"preview": camera()}, 6: {"return_to": -1}}
    found = live(tmp_path, asked, changes)
    found.stage.finish()
    texts = [told.text for told in found.controls.told]
    counted = {"csd": "iteration 2/3", "in2n": "view 2/3", "ip2p": "step 1/2"}[update]
    for text in (
        *("source 0/2", "source 1/2", "round 0: rendering", "round 0: encoding"),
        *(f"round 0: {counted}", "paused", "preview: rendering", "preview done"),
        *("next round in 1 step", "going back", "back at the unedited scene"),
        *("training ends in 1 step", "finished"),
    ):
        assert any(text in told for told in texts), (text, texts)
    if update == "csd":
        assert "round 0: decoding" in texts
    shares = [told.share for told in found.controls.told if told.share is not None]
    assert all(0 <= share <= 1 for share in shares)
    rounds = [told.share for told in found.controls.told if told.text.startswith("round 0: ")]
    assert rounds == sorted(rounds)
    left = [told.seconds_left for told in found.controls.told if "source 1" in told.text]
    assert left[0] >= 0


def test_progress_of_training_is_told_now_and_then(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    told = []
    teller = progress.Teller(told.append)
    plan = EditingStage(LiveImageScene(photographs()), options(source_steps=1000), prior=TintPrior)
    plan = plan.plan_run()
    for step in range(1000):
        teller.begin_step()
        teller.train(plan, step, every=3, waits=None)
        teller.end_step()
        now[0] += 0.01
    assert 35 <= len(told) <= 41
    assert told[-1].seconds_left == pytest.approx(0.01 * (1000 - int(told[-1].text[7:10])), rel=0.1)
    teller.hold("failed")
    now[0] += progress.HOLD / 2
    teller.train(plan, 5, every=3, waits=None)
    assert told[-1].text == "failed"


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"prompt": "  "}, RoundError, "A round needs a prompt that says what to do"),
        ({"prompt": "\ud800 cat"}, RoundError, "prompt needs to be whole characters"),
        ({"negative_prompt": "\udfff"}, RoundError, "negative_prompt needs to be whole"),
        ({"views": 0}, RoundError, "views needs to be at least 1, got 0"),
        ({"seed": 2**63}, RoundError, "seed needs to be within 31 bits"),
        ({"return_to": 99}, RequestError, "got 99"),
        ({"preview": "not a camera"}, RequestError, "A preview failed: AttributeError"),
        ({"save": True}, RequestError, "A run needs a folder to be saved in"),
    ],
)
def test_nothing_that_is_asked_for_can_end_a_run(tmp_path, changes, kind, text):
    asked = options()
    found = live(tmp_path, asked, {5: changes}, end=5)
    state = replace(found.stage.state, owed=False)
    with pytest.raises(kind, match=text) as raised:
        found.stage.before_step(5)
    assert "\n" not in str(raised.value)
    assert found.controls.told[-1].text == str(raised.value)
    assert replace(found.stage.state, owed=False) == state
    for step in range(6, 11):
        found.stage.before_step(step)
        found.scene.train_step()


@pytest.mark.parametrize("prompt", ["🦊" * 5, "夜にして", "x" * 100_000, "a\0b\n\t"])
def test_prompts_of_any_kind_are_taken(tmp_path, prompt):
    found = live(tmp_path, options(), {5: {"prompt": prompt}}, end=6)
    assert found.rounds[1].request.prompt == prompt
    assert found.rounds[1].save(tmp_path).is_file()
    assert found.stage.state.history[-1].prompt == prompt


def test_without_a_user_an_error_that_no_request_causes_is_raised_as_it_is(monkeypatch):
    def wrong(*_, **__):
        raise KeyError("a fault of ours")

    monkeypatch.setattr(TintPrior, "predict", wrong)
    with pytest.raises(KeyError):
        run(LiveImageScene(photographs()), options())


def test_a_failed_round_is_owed_only_when_editing_is_paused(tmp_path, monkeypatch):
    right, fails = RecordingPrior.predict, [True]

    def predict(self, *given, **options):
        if fails:
            raise MemoryError("full")
        return right(self, *given, **options)

    monkeypatch.setattr(RecordingPrior, "predict", predict)
    asked, prior = options(), RecordingPrior()
    paused = {3: {"paused": True}}
    found = live(tmp_path, asked, paused, prior=prior, end=2)
    with pytest.raises(RoundError, match="full"):
        found.stage.before_step(2)
    fails.clear()
    assert found.stage.before_step(3) is None
    assert found.stage.before_step(4).step == 4
    fails.append(True)
    with pytest.raises(RoundError, match="full"):
        found.stage.before_step(5)
    fails.clear()
    assert found.stage.before_step(6) is None


def test_what_the_stage_saves_is_told(tmp_path):
    asked = options()
    found = live(tmp_path, asked, {3: {"save": True}}, end=3)
    saved = []
    found.stage.save = lambda step: saved.append(step) or "RUN/splats/edited.ply"
    found.stage.before_step(3)
    assert saved == [3]
    assert found.controls.told[-1].text == "saved: RUN/splats/edited.ply"


def test_a_scene_that_keeps_nothing_can_be_edited_but_not_go_back(tmp_path):
    asked = options()
    scene = image_scene_class()(photographs())
    found = live(tmp_path, asked, {}, scene=scene)
    assert len(found.rounds) == 3
    found = live(tmp_path, asked, {4: {"return_to": -1}}, scene=scene, end=4)
    with pytest.raises(RequestError, match="need a LiveScene, got a scene without its methods"):
        found.stage.before_step(4)
