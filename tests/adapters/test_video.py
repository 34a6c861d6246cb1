"""Videos from frames to frames and from file to file, by the bundled prior at small sizes."""

from __future__ import annotations

import io
import json
import weakref
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from film_maker import decode_sound, grey_frames, write_film
from torch import Tensor

from csd_nerf import priors
from csd_nerf.adapters import video
from csd_nerf.adapters.frame_latents import decoded_frames, encode_frames
from csd_nerf.adapters.options import VideoOptions
from csd_nerf.adapters.reporter import SilentReporter
from csd_nerf.adapters.video import edit_frames, edit_video
from csd_nerf.media.frames import FrameSource, open_frames
from csd_nerf.media.pixels import to_01
from csd_nerf.synthetic.looks import LOOKS

pytestmark = pytest.mark.usefixtures("coarse_kernel")

METHODS = ["csd", "csd-no-stein", "sds", "ip2p"]
COUNT = 5


@pytest.fixture(scope="module")
def tiny():
    return priors.load("tiny")


def options(**changes: Any) -> VideoOptions:
    few = {"prompt": "make it night", "batch": 2, "iterations": 3, "steps": 3, "size": 32}
    return VideoOptions(**{"preset": "tiny", **few, **changes})


def film(count: int = COUNT, size: tuple[int, int] = (30, 47)) -> Tensor:
    """Smooth colours that wander."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in size), indexing="ij")
    waves = [(torch.sin(6 * (x + t / 10)) + 1) / 2 for t in range(count)]
    return (255 * torch.stack([torch.stack([x, y, wave], -1) for wave in waves])).byte()


def source_of(frames: Tensor, **known: Any) -> FrameSource:
    size = (frames.shape[1], frames.shape[2])
    return FrameSource(size, len(frames), lambda: iter(frames), **known)


class StoppingReporter(SilentReporter):
    """Keeps every state in the form of a file, and may stop after one of them."""

    def __init__(self, stop_after: int | None = None, state: dict[str, Any] | None = None) -> None:
        self.stop_after = stop_after
        self.state = state
        self.notes: list[str] = []
        self.stages: list[tuple[str, int, int]] = []
        self.ticks: dict[str, list[int]] = {}
        self.previews: list[Tensor] = []

    def restored(self):
        return self.state

    def begin(self, label, total, *, done=0):
        self.stages.append((label, total, done))

    def note(self, text):
        self.notes.append(text)

    def tick(self, done, *, state=None, preview=None):
        self.ticks.setdefault(self.stages[-1][0], []).append(done)
        if preview is not None:
            self.previews.append(preview())
        if state is None:
            return
        file = io.BytesIO()
        torch.save(state(), file)
        file.seek(0)
        self.state = {**torch.load(file, weights_only=True), "done": done}
        if done == self.stop_after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_frames_of_the_input_s_size_and_its_facts(tiny, method):
    frames = film()
    edited, facts = edit_frames(tiny, frames, options(method=method, image_scale=1.1))
    assert edited.shape == frames.shape
    # What comes out is still the film, and nearer to the true night than the film is.
    night = 255 * LOOKS["night"](to_01(frames)).movedim(1, -1)
    dark = (night - frames).abs().mean()
    assert 2 < (edited.float() - frames).abs().mean() < dark + 5
    assert (edited.float() - night).abs().mean() < dark - 3
    assert facts["method"] == method
    assert (facts["input_size"], facts["work_size"]) == ([47, 30], [32, 16])
    assert facts["frames"] == COUNT
    # 5 estimates a frame with the source as baseline, 3 with noise or when sampling.
    estimates = {"csd": 5 * 5, "csd-no-stein": 5 * 5, "sds": 3 * 5, "ip2p": 3 * 3 * 5}
    assert facts["evaluations"] == estimates[method]
    assert set(facts["seconds"]) == {"encode", "edit", "decode"}
    json.dumps(facts)


def test_an_edit_goes_where_the_instruction_says(tiny):
    edited, _ = edit_frames(tiny, film(3), options(iterations=20, size=48))
    assert edited.float().mean() < 0.75 * film(3).float().mean(), "night is dark"


def test_iterations_follow_from_the_updates_that_each_frame_is_to_get(tiny):
    _, facts = edit_frames(tiny, film(), options(iterations=None, updates=3))
    assert facts["iterations"] == 9  # 3 sweeps over 5 frames, each in batches of 2, 2 and 1
    spread = facts["updates_per_frame"]
    assert [spread[name] for name in ("mean", "min", "max", "sd")] == [3, 3, 3, 0]


@pytest.mark.parametrize("method", ["csd", "ip2p"])
def test_a_seed_gives_the_same_frames_and_another_seed_others(tiny, method):
    first, again, other = (
        edit_frames(tiny, film(3), options(method=method, seed=seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("noise", "different"), [(None, 3), ("independent", 3), ("shared", 1)])
def test_plain_sampling_gives_each_frame_noise_of_its_own_or_one_to_all(tiny, noise, different):
    still = film(1).expand(3, -1, -1, -1)
    edited, _ = edit_frames(tiny, still, options(method="ip2p", noise=noise, batch=1))
    assert len({frame.numpy().tobytes() for frame in edited}) == different


@pytest.mark.parametrize(
    ("method", "stop", "noise"),
    [("csd", 2, None), ("ip2p", 4, None), ("ip2p", 3, None), ("ip2p", 4, "shared")],
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tiny, tmp_path, method, stop, noise):
    chosen = options(method=method, noise=noise)
    source = source_of(film(), fps=Fraction(10))
    whole = tmp_path / "whole.mp4"
    facts = edit_video(tiny, source, whole, chosen)

    stopped, output = StoppingReporter(stop_after=stop), tmp_path / "resumed.mp4"
    with pytest.raises(KeyboardInterrupt):
        edit_video(tiny, source, output, chosen, reporter=stopped)
    assert not output.exists()
    going_on = StoppingReporter(state=stopped.state)
    facts_again = edit_video(tiny, source, output, chosen, reporter=going_on)
    assert output.read_bytes() == whole.read_bytes()
    assert facts_again["evaluations"] == facts["evaluations"]
    assert going_on.ticks["sample" if method == "ip2p" else "edit"][0] == stop + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.mp4", "whole.mp4"]


def test_from_file_to_file_is_the_same_as_in_memory(tiny, tmp_path):
    edited, facts = edit_frames(tiny, film(), options())
    facts_of_files = edit_video(tiny, source_of(film()), tmp_path / "folder", options())
    assert torch.equal(torch.stack([*open_frames(tmp_path / "folder")]), edited)
    same = {"iterations", "evaluations", "updates_per_frame", "work_size", "frames"}
    assert {name: facts[name] for name in same} == {name: facts_of_files[name] for name in same}


def test_the_rate_and_the_sound_of_a_film_are_carried_over(tiny, tmp_path):
    made = write_film(tmp_path / "in.mp4", grey_frames(12), fps=12, audio="aac")
    edit_video(tiny, open_frames(made, frames="3"), tmp_path / "out.mp4", options(iterations=1))
    result = open_frames(tmp_path / "out.mp4")
    assert (result.size, result.count, result.fps) == ((32, 48), 3, 3)
    np.testing.assert_array_equal(decode_sound(result.sound)[1], decode_sound(made)[1])


@pytest.mark.parametrize(
    ("size", "changes", "work"),
    [
        ((1080, 1920), {}, [80, 48]),
        ((1920, 1080), {}, [48, 80]),
        ((600, 600), {}, [64, 64]),
        ((30, 3000), {}, [640, 16]),
        ((1080, 1920), {"square": True}, [64, 64]),
        ((1080, 1920), {"size": 160}, [160, 96]),
        ((1080, 1920), {"size": 96, "square": True}, [96, 96]),
        ((20, 40), {"size": 3}, [16, 16]),
    ],
)
def test_the_edit_has_the_prior_s_area_and_the_frames_aspect_or_what_is_asked(
    tiny, size, changes, work
):
    frames = torch.full((1, *size, 3), 128, dtype=torch.uint8)
    chosen = VideoOptions(preset="tiny", prompt="fog", iterations=1, **changes)
    assert edit_frames(tiny, frames, chosen)[1]["work_size"] == work


def test_progress_and_previews_are_told(tiny):
    reporter = StoppingReporter()
    edit_frames(tiny, film(), options(), reporter=reporter)
    assert reporter.stages == [("encode", 5, 0), ("edit", 3, 0), ("decode", 5, 0)]
    assert reporter.ticks == {"encode": [2, 4, 5], "edit": [1, 2, 3], "decode": [1, 2, 3, 4, 5]}
    assert [tuple(preview.shape) for preview in reporter.previews] == [(16, 4 * 32, 3)] * 3


def test_what_the_user_should_know_is_told_and_recorded(tiny):
    reporter = StoppingReporter()
    words = "make it night " * 40
    _, facts = edit_frames(tiny, film(2, (10, 20)), options(prompt=words), reporter=reporter)
    cut, enlarged = reporter.notes
    assert "is cut off" in cut
    assert enlarged == "frames of 20 x 10 pixels are enlarged to 32 x 16 for the edit"
    assert facts["notices"] == reporter.notes


def test_what_the_frames_say_of_themselves_is_told_and_recorded(tiny, tmp_path):
    reporter = StoppingReporter()
    source = source_of(film(2, (32, 48)), notices=("3 frames are left out",))
    facts = edit_video(tiny, source, tmp_path / "out", options(), reporter=reporter)
    assert reporter.notes == facts["notices"] == ["3 frames are left out"]


class Counted:
    """Frames of which it is known how many are alive."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.seen: list[weakref.ref] = []
        self.most = 0

    def look(self, frame: Tensor) -> None:
        self.seen.append(weakref.ref(frame))
        self.most = max(self.most, sum(reference() is not None for reference in self.seen))

    def read(self):
        for _ in range(self.count):
            frame = torch.zeros(16, 32, 3, dtype=torch.uint8)
            self.look(frame)
            yield frame
            del frame


class Grey:
    """Stands for a decoder: two frames at a time."""

    def stream(self, latent: Tensor):
        for part in latent.split(2):
            yield torch.full((len(part), 3, 16, 32), 0.5)


def test_no_more_frames_than_a_batch_are_held(tiny):
    frames = Counted(12)
    source = FrameSource((16, 32), 12, frames.read)
    latent, _ = encode_frames(tiny, source, size=(16, 32), batch=3, reporter=SilentReporter())
    # The batch before the one that is being read.
    assert frames.most <= 2 * 3

    for source in (None, latent):
        written = Counted(0)
        for frame, change in decoded_frames(Grey(), latent, source):
            written.look(frame if change is None else change)
            del frame, change
        assert len(written.seen) == 12
        # Those of a call of the decoder, and the one that was taken last.
        assert written.most <= 2 * 2 + 1


def test_a_film_that_changes_while_it_is_read_is_refused(tiny, tmp_path):
    source = FrameSource((30, 47), COUNT + 1, lambda: iter(film()))
    with pytest.raises(ValueError, match="must not change while it is read, got 5 frames instead"):
        edit_video(tiny, source, tmp_path / "out", options())


def test_another_decoder_is_loaded_and_makes_the_frames(tiny, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(video, "check_latents", lambda kind, channels: asked.append(kind))
    monkeypatch.setattr(video, "fetch_decoder", lambda kind, weights: asked.append(weights))
    monkeypatch.setattr(
        video, "load_decoder", lambda kind, **how: asked.append((kind, how)) or Grey()
    )
    chosen = options(decoder="temporal", decoder_weights="here", keep_detail=False)
    edited, _ = edit_frames(tiny, film(), chosen)
    assert asked[:2] == ["temporal", "here"]
    kind, how = asked[2]
    assert (kind, how["weights"], how["dtype"]) == ("temporal", "here", torch.float32)
    assert torch.equal(edited, torch.full_like(edited, 128))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, r"--prompt needs an instruction, got ' '"),
        ({"decoder": "consistency"}, r"got 8 channels: take the prior's own decoder \(vae\)"),
    ],
)
def test_what_can_not_be_asked_for_is_refused_at_once(tiny, tmp_path, changes, message):
    def unread():
        raise AssertionError("no frame should be read")

    source = FrameSource((30, 47), COUNT, unread)
    with pytest.raises(ValueError, match=message):
        edit_video(tiny, source, tmp_path / "out.mp4", options(**changes))


@pytest.mark.parametrize(
    ("output", "error"),
    [("file/out.mp4", OSError), ("file/folder", OSError), ("a.avi", ValueError)],
)
def test_an_output_that_can_not_be_written_is_told_at_once(tiny, tmp_path, output, error):
    (tmp_path / "file").write_text("no folder")
    source = FrameSource((30, 47), COUNT, lambda: iter(()))
    with pytest.raises(error, match="name another --output") as caught:
        edit_video(tiny, source, tmp_path / output, options())
    assert "\n" not in str(caught.value)
