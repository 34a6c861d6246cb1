from __future__ import annotations

import itertools

import numpy as np
import pytest

from csd_nerf.media.places import parse_region
from csd_nerf.methods.common.region_box import bars, box_of_text, box_text, clear_corner

BOX = ((-0.125, 0.0, -1.0), (0.5, 0.2504, 0.0))


def test_a_box_and_its_text_stand_for_each_other():
    text = box_text(BOX)
    assert text == "-0.125,0,-1,0.5,0.25,0"
    found = box_of_text(text)
    assert found is not None
    assert box_text(found) == text
    np.testing.assert_allclose(found, BOX, atol=1e-3)
    # The stage reads the same box.
    where = parse_region(text, of="scene").where
    np.testing.assert_allclose((where.low, where.high), found)


def test_two_opposite_corners_make_a_box_whichever_comes_first():
    assert box_of_text("1,0,1,0,1,0") == box_of_text("0,0,0,1,1,1") == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    "text", ["", "the car", "1,2,3", "0,0,0,1,1,nan", "0,0,0,1,1,0", "a,b,c,d,e,f"]
)
def test_what_is_no_box_shows_none(text):
    assert box_of_text(text) is None


def test_the_bars_lie_along_the_twelve_edges_in_the_viewers_scale():
    vertices, faces = bars(((0.0, 0.0, 0.0), (0.1, 0.2, 0.3)))
    assert faces.max() == len(vertices) - 1
    ends = [{0.0, edge} for edge in (1.0, 2.0, 3.0)]
    middles = set()
    for bar in vertices.reshape(12, 8, 3):
        assert (np.ptp(bar, axis=0) > 0.5).sum() == 1
        middles.add(tuple(np.round(bar.mean(0), 6)))
    expected = set()
    for axis in range(3):
        free = [values if other != axis else {sum(values) / 2} for other, values in enumerate(ends)]
        expected |= set(itertools.product(*free))
    assert middles == expected


@pytest.mark.parametrize(
    ("seen_from", "corner"),
    [
        ((3, 3, 2), (False, True, True)),
        ((3, 3, -2), (False, True, True)),
        ((-3, 3, 2), (True, True, True)),
        ((0, 0, 5), (True, True, True)),
        ((5, 0.5, 0), (False, True, True)),
    ],
)
def test_the_corner_with_the_handle_is_seen_far_from_the_centre(seen_from, corner):
    cube = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    found = clear_corner(cube, np.array(seen_from, dtype=float))
    assert tuple(found) == corner
    place, sight = np.where(found, 1.0, -1.0), -np.array(seen_from, dtype=float)
    angle = np.arccos(abs(place @ sight) / np.linalg.norm(place) / np.linalg.norm(sight))
    assert np.degrees(angle) > 50
