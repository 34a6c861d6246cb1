from __future__ import annotations

import math

import pytest
import torch

from benchmarks.truth.choice_scores import CHOICE_COLUMNS, Judged, variety

IMAGES, ANSWERS, EDGE = 5, 3, 4


@pytest.fixture
def judged() -> Judged:
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, 3, EDGE, EDGE, generator=generator)

    truths, source = drawn(ANSWERS, IMAGES), drawn(IMAGES)
    # Images near the answers 2, 2, 0, none and 1.
    near = torch.stack([truths[2, 0], truths[2, 1], truths[0, 2], source[3], truths[1, 4]])
    edited = 0.8 * near + 0.2 * drawn(IMAGES)
    region = torch.rand(IMAGES, EDGE, EDGE, generator=generator) < 0.6
    return Judged(edited, truths, source, region)


def slow_error(one: torch.Tensor, other: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """Mean squared difference of two images over a mask, by loops."""
    total, count = 0.0, 0
    for y in range(EDGE):
        for x in range(EDGE):
            if mask is None or bool(mask[y, x]):
                for c in range(3):
                    total += (float(one[c, y, x]) - float(other[c, y, x])) ** 2
                    count += 1
    return total / count


def slow_psnr(one: torch.Tensor, other: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    return -10 * math.log10(slow_error(one, other, mask))


def slow_answers(j: Judged) -> list[int]:
    found = []
    for i in range(IMAGES):
        others = [*j.truths01[:, i], j.source01[i]]
        away = [slow_error(j.edited01[i], other, j.region[i]) for other in others]
        found.append(away.index(min(away)))
    return found


def slow_common(j: Judged) -> int:
    means = [
        sum(slow_psnr(j.edited01[i], j.truths01[k, i]) for i in range(IMAGES))
        for k in range(ANSWERS)
    ]
    return means.index(max(means))


def test_the_answers_are_the_nearest_in_the_region(judged):
    assert slow_answers(judged) == [2, 2, 0, 3, 1]
    assert judged.answers().tolist() == [2, 2, 0, 3, 1]
    assert judged.agreement() == pytest.approx(2 / 5)
    assert judged.changed() == pytest.approx(4 / 5)


def test_only_the_region_decides_the_answer(judged):
    """Outside of the region the images are those of another answer."""
    mask = judged.region[:, None]
    edited = torch.where(mask, judged.truths01[1], judged.truths01[0])
    assert (
        Judged(edited, judged.truths01, judged.source01, judged.region).answers().tolist()
        == [1] * 5
    )


def test_unchanged_images_don_t_agree(judged):
    still = Judged(judged.source01, judged.truths01, judged.source01, judged.region)
    assert (still.agreement(), still.changed()) == (0.0, 0.0)
    scores = still.scores()
    assert scores["blend"] is None
    assert scores["blends"] is None


def test_psnr_is_to_the_best_single_answer_and_to_each_images_best(judged):
    scores = judged.scores()
    table = [
        [slow_psnr(judged.edited01[i], judged.truths01[k, i]) for i in range(IMAGES)]
        for k in range(ANSWERS)
    ]
    assert scores["psnr"] == pytest.approx(max(sum(row) / IMAGES for row in table), rel=1e-5)
    nearest = [max(row[i] for row in table) for i in range(IMAGES)]
    assert scores["psnr_nearest"] == pytest.approx(sum(nearest) / IMAGES, rel=1e-5)
    assert judged.common == slow_common(judged)


def test_the_distance_is_in_units_of_the_two_nearest_answers(judged):
    expected = []
    for i, answer in enumerate(slow_answers(judged)):
        if answer == ANSWERS:
            continue
        away = [slow_error(judged.edited01[i], t, judged.region[i]) for t in judged.truths01[:, i]]
        first, second, _ = sorted(range(ANSWERS), key=away.__getitem__)
        between = slow_error(
            judged.truths01[first, i], judged.truths01[second, i], judged.region[i]
        )
        expected.append(math.sqrt(away[first] / between))
    assert judged.distances().tolist() == pytest.approx(expected, rel=1e-5)
    assert judged.scores()["blend"] == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert judged.scores()["blends"] == sum(one > 0.25 for one in expected) / 4


@pytest.mark.parametrize(("share", "distance"), [(0.0, 0.0), (0.2, 0.2), (0.5, 0.5)])
def test_the_mean_of_two_answers_is_half_of_their_distance_away(judged, share, distance):
    blend = (1 - share) * judged.truths01[0] + share * judged.truths01[1]
    far = torch.cat([judged.truths01[:2], 20 + judged.truths01[2:]])
    found = Judged(blend, far, 20 + judged.source01, judged.region).distances()
    assert found.tolist() == pytest.approx([distance] * IMAGES, abs=1e-5)


def test_the_spread_is_that_of_mean_colours_against_the_common_answer(judged):
    common = slow_common(judged)
    variances = []
    for c in range(3):
        offs = []
        for i in range(IMAGES):
            places = [(y, x) for y in range(EDGE) for x in range(EDGE) if judged.region[i, y, x]]
            mine = sum(float(judged.edited01[i, c, y, x]) for y, x in places) / len(places)
            true = sum(float(judged.truths01[common, i, c, y, x]) for y, x in places) / len(places)
            offs.append(mine - true)
        mean = sum(offs) / IMAGES
        variances.append(sum((off - mean) ** 2 for off in offs) / IMAGES)
    assert judged.spread() == pytest.approx(math.sqrt(sum(variances) / 3), rel=1e-4)


def test_an_equal_shift_of_all_images_is_no_spread(judged):
    truths = judged.truths01 / 2
    shifted = Judged(truths[1] + 0.01, truths, judged.source01 + 5, judged.region)
    assert shifted.spread() == pytest.approx(0, abs=1e-6)


def test_psnr_outside_leaves_the_region_out(judged):
    common = slow_common(judged)
    each = [
        slow_psnr(judged.edited01[i], judged.truths01[common, i], ~judged.region[i])
        for i in range(IMAGES)
    ]
    assert judged.psnr_outside() == pytest.approx(sum(each) / IMAGES, rel=1e-5)
    whole = torch.ones_like(judged.region)
    assert Judged(judged.edited01, judged.truths01, judged.source01, whole).psnr_outside() is None


def test_variety_counts_answers_and_their_entropy():
    assert variety(["a", "a", "a"]) == {"variety": 1, "entropy": 0}
    assert variety(["a", "b", "a", "b"]) == {"variety": 2, "entropy": 1}
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert variety(["a", "b", "b", "b"])["entropy"] == pytest.approx(expected)


def test_every_column_has_a_score(judged):
    assert set(judged.scores()) == {column.key for column in CHOICE_COLUMNS}
