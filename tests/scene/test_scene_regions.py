"""Regions of a synthetic scene whose surfaces and labels are known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from image_scene import image_scene_class
from PIL import Image
from tint_prior import RecordingPrior, TintPrior

from csd_nerf.core.settings import EditSettings
from csd_nerf.media.pixels import to_bytes
from csd_nerf.media.regions import parse_region
from csd_nerf.scene.controls import EditRequest, FixedControls
from csd_nerf.scene.lifting import NEIGHBOURS, LabelledPoints
from csd_nerf.scene.options import StageOptions
from csd_nerf.scene.plan import draw_views
from csd_nerf.scene.protocol import SceneRender
from csd_nerf.scene.regions import find_region
from csd_nerf.scene.stage import EditingStage, RoundError
from csd_nerf.synthetic.cameras import pixel_rays
from csd_nerf.synthetic.dataset import render_views, view_cameras
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, draw_scenes

ImageScene = image_scene_class()
CUBE, VIEWS, SIZE = 1, 8, 48
SETTINGS = EditSettings(iterations=30, learning_rate=1.0, text_scale=1.0, mixing="none")


class TrueScene(ImageScene):
    """Images of a procedural scene, with the points that each pixel shows."""

    def __init__(self) -> None:
        self._world = draw_scenes([SPLIT_SEEDS["benchmark"][0]])
        self._cameras = view_cameras(VIEWS)
        rendering = render_views(self._world, self._cameras, size=SIZE)
        super().__init__(to_bytes(rendering.image01).movedim(-1, 1) / 255)
        self.labels = rendering.label
        self.rendered: list[int] = []

    def name(self, view):
        return f"images/{view:05d}.jpg"

    def render(self, view, *, size):
        assert size[0] == size[1]
        self.rendered.append(view)
        points = self.points(size[0])[view]
        shown = super().render(view, size=size)
        return SceneRender(shown.image01, points.norm(dim=-1), points=points)

    def points(self, size):
        """Where one ray of each pixel meets the scene; far away in the sky."""
        depth = render_views(self._world, self._cameras, size=size).depth.clamp(max=20)
        origin, direction = pixel_rays(self._cameras, height=2 * size, width=2 * size)
        direction = direction.view(VIEWS, 2 * size, 2 * size, 3)[:, 1::2, 1::2]
        return origin.view(-1, 1, 1, 3) + depth[..., None] * direction


@pytest.fixture(scope="module")
def scene() -> TrueScene:
    return TrueScene()


def overlap(first, second) -> float:
    """Intersection over union."""
    return float((first & second).sum() / (first | second).sum())


def found(scene, text, *, size=SIZE, segmenter=None):
    def none(image01, word):
        raise AssertionError("no word was given")

    region = parse_region(str(text), of="scene")
    return find_region(scene, region, size_of=lambda _: (size, size), segmenter=segmenter or none)


def box_of(scene, label) -> str:
    """The box around all that is seen of an object."""
    points = scene.points(SIZE)[scene.labels == label]
    low, high = points.amin(0) - 1e-3, points.amax(0) + 1e-3
    # Above the floor, of which the box would hold the corners beside the object.
    low[2] += 0.05
    return ",".join(f"{number:.6f}" for number in (*low.tolist(), *high.tolist()))


def write_masks(scene, folder, views):
    folder.mkdir(exist_ok=True)
    for view in views:
        mask = (scene.labels[view] == CUBE).byte() * 255
        Image.fromarray(mask.numpy()).save(folder / f"{view:05d}.png")
    return folder


def test_a_box_holds_the_pixels_whose_points_lie_in_it(scene):
    box = box_of(scene, CUBE)
    masks, numbers = found(scene, box), [float(part) for part in box.split(",")]
    low, high = numbers[:3], numbers[3:]
    for view in range(VIEWS):
        points = scene.points(SIZE)[view]
        for y, x in ((y, x) for y in range(0, SIZE, 5) for x in range(0, SIZE, 5)):
            inside = all(low[a] <= points[y, x, a] <= high[a] for a in range(3))
            assert float(masks.mask(view)[y, x]) == float(inside)
        assert overlap(masks.mask(view) >= 0.5, scene.labels[view] == CUBE) > 0.85


def test_masks_of_three_views_reach_all_others_through_space(scene, tmp_path):
    masks = found(scene, write_masks(scene, tmp_path / "masks", (0, 3, 5)))
    for view in (0, 3, 5):
        assert torch.equal(masks.mask(view), (scene.labels[view] == CUBE).float())
    others = [view for view in range(VIEWS) if view not in (0, 3, 5)]
    overlaps = [overlap(masks.mask(v) >= 0.5, scene.labels[v] == CUBE) for v in others]
    assert min(overlaps) > 0.85
    assert sum(overlaps) / len(overlaps) > 0.93
    inside = masks.inside(scene.points(SIZE)[6].reshape(-1, 3)).view(SIZE, SIZE)
    assert overlap(inside, scene.labels[6] == CUBE) > 0.85


def test_masks_of_all_views_need_no_renders(tmp_path):
    scene = TrueScene()
    masks = found(scene, write_masks(scene, tmp_path / "masks", range(VIEWS)))
    assert scene.rendered == []
    assert torch.equal(masks.mask(4), (scene.labels[4] == CUBE).float())


def test_the_nearest_labelled_points_vote_by_their_distance():
    generator = torch.Generator().manual_seed(0)
    points, share = torch.rand(300, 3, generator=generator), torch.rand(300, generator=generator)
    asked = torch.rand(20, 3, generator=generator)
    labelled = LabelledPoints.gather([(points[None], share[None])], generator=generator)
    for one, voted in zip(asked, labelled.vote(asked), strict=True):
        squares = ((points - one) ** 2).sum(1).double()
        nearest = squares.argsort()[:NEIGHBOURS]
        weights = 1 / squares[nearest]
        expected = (weights * share[nearest]).sum() / weights.sum()
        assert abs(float(voted) - float(expected)) < 1e-4
    # A labelled point itself, and one that isn't anywhere.
    assert torch.allclose(labelled.vote(points[:5]), share[:5], atol=1e-4)
    assert float(labelled.vote(torch.full((3,), torch.nan))) == 0


def test_of_many_points_some_are_kept_the_same_in_every_run():
    points = torch.rand(2, 40, 40, 3, generator=torch.Generator().manual_seed(0))
    points[0, 0] = torch.nan
    views = [(one, torch.ones(40, 40)) for one in points]
    kept = [
        LabelledPoints.gather(views, generator=torch.Generator().manual_seed(seed), most=100)
        for seed in (0, 0, 1)
    ]
    assert len(kept[0].points) == 100
    assert torch.equal(kept[0].points, kept[1].points)
    assert not torch.equal(kept[0].points, kept[2].points)
    assert bool(kept[0].points.isfinite().all())


def test_a_word_is_asked_of_each_photograph_once(scene):
    asked = []

    def segment(image01, word):
        assert word == "the cube"
        view = next(v for v in range(VIEWS) if torch.equal(image01, scene.photographs01[v]))
        asked.append(view)
        return (scene.labels[view] == CUBE).float() * 0.8

    masks = found(scene, "the cube", segmenter=segment)
    assert asked == list(range(VIEWS))
    assert torch.allclose(masks.mask(3), (scene.labels[3] == CUBE) * 0.8, atol=1 / 255)


class Files(TrueScene):
    """The same scene in files, as `csd-nerf synthetic` writes them, at half the size."""

    def __init__(self, folder) -> None:
        super().__init__()
        self.folder = folder
        for kind in ("images", "labels"):
            (folder / kind).mkdir()
        for view, label in enumerate(self.labels):
            large = label.byte().repeat_interleave(2, 0).repeat_interleave(2, 1)
            Image.fromarray(large.numpy()).save(folder / "labels" / f"{view:05d}.png")

    def photograph_file(self, view):
        return self.folder / self.name(view)

    def file_size(self, view):
        return (2 * SIZE, 2 * SIZE)

    def as_photograph(self, view, mask):
        return mask.view(SIZE, 2, SIZE, 2).mean((1, 3))


def test_labels_are_those_of_the_data_set_and_masks_may_be_of_the_files_size(tmp_path):
    scene = Files(tmp_path)
    masks = found(scene, "labels:1,4")
    expected = torch.isin(scene.labels, torch.tensor([1, 4])).float()
    for view in range(VIEWS):
        assert torch.equal(masks.mask(view), expected[view])
    (tmp_path / "own").mkdir()
    large = np.kron(scene.labels[2] == CUBE, np.ones((2, 2))).astype(np.uint8) * 255
    Image.fromarray(large).save(tmp_path / "own" / "00002.png")
    assert torch.equal(found(scene, tmp_path / "own").mask(2), (scene.labels[2] == CUBE).float())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9,9,9,9.5,9.5,9.5", "needs to be seen by a view, got 9,9,9,9.5,9.5,9.5, which none of 8"),
        ("labels:1,77", "needs labels that an image has, got 77; .* are 1, 4, 5"),
        ("0,0,0,1,1", "needs 6 numbers"),
        ("0,0,0,1,-1,1", "needs x0 < x1, y0 < y1 and z0 < z1, got '0,0,0,1,-1,1'"),
        ("0,0,0,1,nan,1", "needs 6 numbers"),
        ("nowhere/masks", "Masks need a folder, got nowhere/masks"),
    ],
)
def test_mistakes_are_one_line(tmp_path, text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as told:
        found(Files(tmp_path), text)
    assert "\n" not in str(told.value)


def test_masks_that_fit_no_view_or_show_nothing(scene, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    with pytest.raises(ValueError, match="needs files named like the pictures"):
        found(scene, folder)
    Image.fromarray(np.full((SIZE, SIZE // 2), 255, np.uint8)).save(folder / "00001.png")
    with pytest.raises(ValueError, match=f"A mask needs .* {SIZE} x {SIZE}"):
        found(scene, folder)
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(folder / "00001.png")
    with pytest.raises(ValueError, match="need to be white somewhere"):
        found(scene, folder)
    with pytest.raises(ValueError, match="finite shares, got NaN"):
        found(scene, "the cube", segmenter=lambda image01, _: image01[0] / 0 * 0)
    with pytest.raises(ValueError, match="photographs that are files"):
        found(scene, "labels:1")


def test_a_scene_without_depth_takes_masks_of_all_its_views(tmp_path):
    class Flat(TrueScene):
        def render(self, view, *, size):
            return ImageScene.render(self, view, size=size)

    scene = Flat()
    with pytest.raises(ValueError, match="needs a scene with depth, got photographs alone"):
        found(scene, box_of(scene, CUBE))
    with pytest.raises(ValueError, match="needs a scene with depth, got photographs alone"):
        found(scene, write_masks(scene, tmp_path / "masks", (0, 3)))
    found(scene, write_masks(scene, tmp_path / "masks", range(VIEWS)))


def run(scene, region, *, prior=None, segmenter=None, controls=None, **changes):
    """All rounds of a stage; gives their reports."""
    usual = {"source_steps": 0, "edit_steps": 4, "edit_every": 2, "edit_views": 3}
    usual |= {"start": "original", "edit": SETTINGS}
    options = StageOptions(prompt="swap", region=str(region), **{**usual, **changes})
    prior = prior or TintPrior()
    stage = EditingStage(
        scene, options, prior=lambda: prior, segmenter=segmenter, controls=controls
    )
    reports = [stage.before_step(step) for step in range(stage.plan_run().end)]
    return [report for report in reports if report is not None]


@pytest.mark.parametrize("keep_detail", [False, True])
@pytest.mark.parametrize("update", ["csd", "in2n", "ip2p"])
def test_outside_the_photograph_stays_to_the_last_bit(tmp_path, update, keep_detail):
    scene = TrueScene()
    folder = write_masks(scene, tmp_path / "masks", range(VIEWS))
    settings = replace(SETTINGS, image_scale=1.0)
    given = {"update": update, "denoising_steps": 5, "edit": settings, "keep_detail": keep_detail}
    rounds = run(scene, folder, **given)
    assert len(rounds) == 2
    for view, image in scene.edited.items():
        inside = scene.labels[view] == CUBE
        photograph = to_bytes(scene.photographs01[view])
        assert torch.equal(image[~inside], photograph[~inside])
        # Red and blue are swapped, fully so away from the border.
        from scipy import ndimage

        core = torch.from_numpy(ndimage.binary_erosion(inside.numpy(), iterations=3))
        off = (image.float() - photograph.flip(-1).float()).abs()[core].mean()
        assert off < 0.25 * (photograph.float() - photograph.flip(-1).float()).abs()[core].mean()


def test_latents_outside_of_the_region_are_not_moved(scene, tmp_path):
    """What the model is shown there is the source, so that the edit fits in at the border."""
    seen = []

    class Watching(RecordingPrior):
        def decode(self, latent):
            seen.append(latent.clone())
            return super().decode(latent)

    folder = write_masks(scene, tmp_path / "masks", range(VIEWS))
    for update in ("csd", "ip2p"):
        seen.clear()
        some = TrueScene()
        (report,) = run(
            some, folder, prior=Watching(), update=update, denoising_steps=3, edit_steps=2
        )
        for latent, edit in zip(seen[0], report.edits.values(), strict=True):
            source = 2 * edit.source01 - 1
            inside = torch.nn.functional.interpolate(edit.mask[None, None], (32, 32), mode="area")
            # A cell beside the region fades, here as everywhere.
            outside = torch.nn.functional.max_pool2d(inside, 3, 1, 1)[0, 0] == 0
            assert torch.allclose(latent[:, outside], source[:, outside], atol=1e-5)
            assert not torch.allclose(latent[:, ~outside], source[:, ~outside], atol=0.1)


def test_views_that_do_not_see_the_region_leave_their_turn_to_others(tmp_path):
    scene = TrueScene()
    scene.labels = scene.labels.clone()
    for view in (1, 4, 6):
        scene.labels[view] = 5
    folder = write_masks(scene, tmp_path / "masks", range(VIEWS))
    rounds = run(scene, folder, edit_steps=6, edit_views=2)
    views = [list(report.edits) for report in rounds]
    assert [len(one) for one in views] == [2, 2, 2]
    assert sorted({v for one in views for v in one}) == [0, 2, 3, 5, 7]


def test_turns_are_fair_among_the_views_that_may_be_drawn():
    waiting, turns, among = [], dict.fromkeys(range(9), 0), [0, 3, 4, 8]
    for index in range(10):
        generator = torch.Generator().manual_seed(index)
        views, waiting = draw_views(waiting, count=3, total=9, generator=generator, among=among)
        assert len({*views}) == 3
        for view in views:
            turns[view] += 1
        counts = [turns[view] for view in among]
        assert max(counts) - min(counts) <= 1
    assert sum(turns.values()) == sum(counts) == 30


def test_a_region_that_is_not_there_changes_nothing(tmp_path):
    scene = TrueScene()
    with pytest.raises(RoundError, match="which none of 8 sees"):
        run(scene, "9,9,9,9.5,9.5,9.5")
    assert scene.edited == {}


def test_the_region_is_the_request_s(tmp_path):
    """As the viewer asks for it, whatever the options say."""
    scene = TrueScene()
    request = EditRequest("swap", "", "", SETTINGS, region="the cube")

    def segment(image01, _):
        view = next(v for v in range(VIEWS) if torch.equal(image01, scene.photographs01[v]))
        return (scene.labels[view] == CUBE).float()

    rounds = run(scene, "", segmenter=segment, controls=FixedControls(request), edit_steps=2)
    for view, edit in rounds[0].edits.items():
        outside = scene.labels[view] != CUBE
        assert torch.equal(edit.image[outside], to_bytes(scene.photographs01[view])[outside])
        assert not torch.equal(edit.image, to_bytes(scene.photographs01[view]))


def test_the_outline_is_drawn_around_the_region_in_the_source_of_the_sheet(tmp_path):
    from csd_nerf.scene.report import sheet_columns

    scene = TrueScene()
    folder = write_masks(scene, tmp_path / "masks", range(VIEWS))
    (report,) = run(scene, folder, edit_steps=2)
    source = sheet_columns(report.edits)["source"]
    for row, edit in enumerate(report.edits.values()):
        drawn = (source[row] != edit.source01).any(0)
        inside = torch.nn.functional.interpolate(edit.mask[None, None], (32, 32), mode="bilinear")
        inside = inside[0, 0] >= 0.5
        assert drawn.any()
        assert not (drawn & inside).any()
        y, x = torch.nonzero(drawn, as_tuple=True)
        for one_y, one_x in zip(y.tolist(), x.tolist(), strict=True):
            near = inside[max(one_y - 1, 0) : one_y + 2, max(one_x - 1, 0) : one_x + 2]
            assert near.any()


def test_the_reference_view_is_edited_in_the_region_too(tmp_path, monkeypatch):
    from csd_nerf.scene.stage import ReferenceView

    reference = ReferenceView("swap", "", torch.zeros(4, 4, 3, dtype=torch.uint8), "the cube")
    request = EditRequest("swap", "", "", SETTINGS, region="the cube")
    assert reference.answers(request)
    assert not reference.answers(replace(request, region="the ball"))
