"""What inputs say of themselves is still said of their edits, from file to file."""

from __future__ import annotations

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from film_maker import grey_frames, write_film
from PIL import ExifTags, Image

from csd_nerf import cli
from csd_nerf.evaluation.inputs import find_borders, read_facts

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a GPano:ProjectionType="equirectangular"/></x:xmpmeta>'
QUICK = ("--preset", "tiny", "--prompt", "make it night", "--iterations", "1", "--steps", "2")


def test_an_edited_panorama_is_still_one_for_viewers_and_for_evaluate(tmp_path):
    source, target = tmp_path / "in.jpg", tmp_path / "out.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    Image.fromarray(pixels).save(source, exif=exif, xmp=XMP)
    cli.main(["panorama", str(source), "--output", str(target), "--wrap", *QUICK])
    with Image.open(target) as image:
        image.load()
        assert image.info["xmp"] == XMP
        assert image.getexif()[ExifTags.Base.Make] == "Maker"
    facts = read_facts(target)
    assert facts["wrap"] is True
    borders = find_borders(facts)
    assert borders is not None
    # Windows begin at the edge, so that a border lies where the edges meet.
    assert borders[0].columns[0] == 0


def test_an_edited_film_keeps_its_times_and_the_shape_of_its_pixels(tmp_path):
    source, target = tmp_path / "in:1.mp4", tmp_path / "out:1.mp4"
    times, aspect = [0, 0.1, 1, 2], Fraction(4, 3)
    write_film(source, grey_frames(3), times=times, aspect=aspect, audio="aac")
    cli.main(["video", str(source), "--output", str(target), *QUICK])
    with av.open(f"file:{target}") as container:
        stream = container.streams.video[0]
        assert stream.sample_aspect_ratio == aspect
        frames = [*container.decode(stream)]
        assert [frame.time for frame in frames] == pytest.approx(times[:-1], abs=1e-3)
        assert frames[-1].duration * frames[-1].time_base == pytest.approx(1, abs=1e-3)
    record = json.loads((tmp_path / "out:1.mp4.json").read_text())
    assert record["facts"]["fps"] == 1.5


def test_what_a_folder_can_not_keep_is_in_the_record(tmp_path):
    source, target = tmp_path / "in.mp4", tmp_path / "out"
    write_film(source, grey_frames(2), aspect=Fraction(4, 3))
    cli.main(["video", str(source), "--output", str(target), *QUICK])
    notices = json.loads((tmp_path / "out.json").read_text())["notices"]
    assert any("pictures have square pixels" in notice for notice in notices)
