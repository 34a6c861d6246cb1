from __future__ import annotations

import doctest
import math

import pytest
import torch

from csd_nerf.evaluation import measures
from csd_nerf.evaluation.comparison import Comparison
from csd_nerf.evaluation.inputs import ImageSequence
from csd_nerf.evaluation.measures import MEASURES, Measure, measure, named
from csd_nerf.evaluation.needs import TRUTH, TWO_FRAMES
from csd_nerf.evaluation.networks import Networks
from csd_nerf.evaluation.similarity import psnr


def frames(n: int, *, seed: int, size: tuple[int, int] = (16, 16)) -> torch.Tensor:
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(seed))


def comparison(n: int = 3, **options) -> Comparison:
    source, edited = ImageSequence.of(frames(n, seed=0)), ImageSequence.of(frames(n, seed=1))
    return Comparison(source, edited, Networks(clip=None), **options)


def test_the_example_of_a_measure_runs():
    found = doctest.DocTestFinder().find(Measure, "Measure", globs=vars(measures))
    results = [doctest.DocTestRunner().run(test) for test in found]
    assert sum(result.attempted for result in results) > 3
    assert not any(result.failed for result in results)


def test_keys_name_one_measure_each():
    keys = [item.key for item in MEASURES]
    assert len(set(keys)) == len(keys)
    assert [item.key for item in named("fid", "psnr_edited")] == ["fid", "psnr_edited"]


def test_a_measure_is_of_each_frame_of_each_pair_or_of_the_whole_edit():
    seen: dict[str, list[int]] = {"frame": [], "pair": []}

    def count(sample, over):
        seen[over].append(len(sample.edited01))
        return float(sample.edited01[-1].mean())

    given = comparison(3)
    values, left_out = measure(
        given,
        [
            Measure("frame", "", function=lambda sample: count(sample, "frame")),
            Measure("pair", "", over="pair", function=lambda sample: count(sample, "pair")),
            Measure("edit", "", over="edit", function=lambda of: of.edited.count),
        ],
    )
    means = frames(3, seed=1).mean(dim=(1, 2, 3))
    assert seen == {"frame": [1, 1, 1], "pair": [2, 2]}
    assert values["frame"] == pytest.approx(float(means.mean()))
    assert values["pair"] == pytest.approx(float(means[1:].mean()))
    assert values["edit"] == 3
    assert not left_out


def test_the_first_need_that_is_not_met_is_the_reason():
    def must_not_run(_):
        raise AssertionError("A measure whose needs aren't met was computed.")

    both = Measure("both", "", needs=(TRUTH, TWO_FRAMES), function=must_not_run)
    assert measure(comparison(1), [both]) == ({}, {"both": "it needs --truth or --look"})
    known = comparison(1, truth=ImageSequence.of(frames(1, seed=2)))
    assert measure(known, [both]) == ({}, {"both": "it needs two frames or more"})


def test_values_that_are_not_finite_and_images_that_are_too_small_are_reasons():
    def too_small(_):
        raise ValueError("It needs more pixels.")

    nan = Measure("nan", "", function=lambda _: math.nan, undefined="nobody knows")
    small = Measure("small", "", function=too_small)
    values, left_out = measure(comparison(), [nan, small])
    assert values == {}
    assert left_out == {"nan": "nobody knows", "small": "It needs more pixels."}


def test_only_the_measures_that_are_asked_for_are_made():
    truth01 = frames(3, seed=2)
    values, _ = measure(comparison(truth=ImageSequence.of(truth01)), named("psnr_edited"))
    assert list(values) == ["psnr_edited"]
    assert values["psnr_edited"] == pytest.approx(psnr(frames(3, seed=1), truth01))


def test_an_input_is_read_once_for_all_measures_of_samples():
    reads = []

    def read():
        reads.append(1)
        return frames(3, seed=1).split(1)

    edited = ImageSequence((16, 16), 3, read)
    source = ImageSequence.of(frames(3, seed=0))
    truth = ImageSequence.of(frames(3, seed=2))
    measure(Comparison(source, edited, Networks(clip=None), truth), named("psnr_edited", "flicker"))
    assert len(reads) == 1


def test_features_of_an_input_are_computed_once(monkeypatch):
    calls = []

    class Counted:
        def image_features(self, image01, max_batch):
            calls.append(len(image01))
            return torch.nn.functional.normalize(image01.mean((2, 3)), dim=1)

    monkeypatch.setattr("csd_nerf.evaluation.clip.load_clip", lambda name, device: Counted())
    networks = Networks(clip="some")
    source = ImageSequence.of(frames(2, seed=0))
    for seed in (1, 2):
        given = Comparison(source, ImageSequence.of(frames(2, seed=seed)), networks)
        values, _ = measure(given, named("clip_source", "clip_consistency"))
        assert len(values) == 2
    assert calls == [2, 2, 2], "The source's features serve both edits."


def test_a_network_that_cannot_be_had_is_told_once(monkeypatch):
    def missing(name, device):
        raise FileNotFoundError("no\nweights")

    monkeypatch.setattr("csd_nerf.evaluation.clip.load_clip", missing)
    notes: list[str] = []
    networks = Networks(clip="some", note=notes.append)
    for _ in range(2):
        assert networks.obstacle("CLIP") == "no weights"
    assert notes == ["what needs CLIP is left out: no weights"]
    with pytest.raises(FileNotFoundError, match="CLIP can't be had: no weights"):
        networks.clip  # noqa: B018
