from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from csd_nerf.media.frames import open_frames
from csd_nerf.media.tone_mapping import HLG, NAMES, PQ, tone_map

BT709, BT2020 = 1, 9


def pq(nits: float) -> float:
    """The inverse transfer function of SMPTE ST 2084."""
    y = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg(scene: float) -> float:
    """The transfer function of BT.2100; its argument is scene light in [0, 1]."""
    if scene <= 1 / 12:
        return math.sqrt(3 * scene)
    return 0.17883277 * math.log(12 * scene - 0.28466892) + 0.55991073


def mapped(*colours, transfer: int = PQ, primaries: int = BT2020) -> np.ndarray:
    """Tone-mapped colours, given as codes in [0, 1]."""
    codes = np.array([colours]) * 65535
    rgb = codes.round().astype(np.uint16)
    return tone_map(rgb, transfer, primaries=primaries)[0].astype(int)


def display(nits: float) -> float:
    """The code of light that the curve leaves alone."""
    return 255 * (nits / 203) ** (1 / 2.4)


def test_dark_light_stays_as_it_is_and_greys_stay_grey():
    nits = [0, 0.5, 2, 10, 30]
    greys = mapped(*([pq(light)] * 3 for light in nits))
    assert (greys.max(1) - greys.min(1)).max() == 0
    np.testing.assert_allclose(greys[:, 0], [display(light) for light in nits], atol=1.01)


def test_light_becomes_white_at_1000_nits_and_reference_white_is_near_it():
    white, peak, beyond = mapped(*([pq(light)] * 3 for light in (203, 1000, 10_000)))
    assert peak.tolist() == beyond.tolist() == [255] * 3
    assert 225 <= white[0] < 245


def test_the_curve_is_that_of_bt_2390():
    """Its cubic has the values and slopes of the knee, and of the end at the target's white."""
    target = pq(203) / pq(1000)
    knee = 1.5 * target - 0.5
    codes = np.linspace(0, 1, 400)
    bent = []
    for code in codes:
        if code < knee:
            bent.append(code)
            continue
        t = (code - knee) / (1 - knee)
        hermite = np.array([2 * t**3 - 3 * t**2 + 1, t**3 - 2 * t**2 + t, -2 * t**3 + 3 * t**2])
        bent.append(float(hermite @ [knee, 1 - knee, target]))
    light = [10_000 * x**4 for x in np.linspace(0, 1, 20_000)]
    nits = np.interp([code * pq(1000) for code in bent], [pq(of) for of in light], light)
    wanted = [display(of) for of in nits]
    found = mapped(*([code * pq(1000)] * 3 for code in codes))
    np.testing.assert_allclose(found[:, 1], wanted, atol=1.01)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_more_light_never_becomes_darker_and_black_stays_black(transfer):
    ramp = mapped(*([code] * 3 for code in np.linspace(0, 1, 2000)), transfer=transfer)[:, 0]
    assert ramp[0] == 0
    assert ramp[-1] == 255
    assert (np.diff(ramp) >= 0).all()
    assert len(np.unique(ramp)) > 200


def test_reference_white_is_the_same_by_both_transfer_functions():
    # BT.2408: 203 nits are 75 % of HLG's signal.
    assert hlg(0.265) == pytest.approx(0.75, abs=1e-3)
    by_pq, by_hlg = mapped([pq(203)] * 3), mapped([0.75] * 3, transfer=HLG)
    assert np.abs(by_pq - by_hlg).max() <= 1
    dark = 0.02
    assert mapped([hlg(dark)] * 3, transfer=HLG)[0, 1] == pytest.approx(
        display(1000 * dark**1.2), abs=1.01
    )


def test_colours_of_bt_2020_become_those_of_bt_709():
    """A colour within both: its BT.709 light through XYZ, by chromaticities."""
    wanted = np.array([0.02, 0.05, 0.1])  # Light of BT.709, below the knee.
    to_xyz = {
        BT709: [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]],
        BT2020: [[0.6370, 0.1446, 0.1689], [0.2627, 0.6780, 0.0593], [0.0, 0.0281, 1.0610]],
    }
    light = np.linalg.solve(to_xyz[BT2020], np.array(to_xyz[BT709]) @ wanted)
    found = mapped([pq(203 * part) for part in light])[0]
    np.testing.assert_allclose(found, [display(203 * part) for part in wanted], atol=1.5)
    plain = mapped([pq(203 * part) for part in wanted], primaries=BT709)[0]
    np.testing.assert_allclose(plain, [display(203 * part) for part in wanted], atol=1.01)


def test_the_purest_red_stays_red_and_in_range():
    red = mapped([pq(1000), 0, 0], [pq(100), 0, 0])
    assert red[0].tolist()[0] == 255
    assert (red[:, 1:] < 0.2 * red[:, :1]).all()


def flat_film(path: Path, luma: list[int], transfer: int) -> Path:
    """Grey frames of 10 bits, by their codes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(24), options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_primaries = BT2020, BT2020
        context.color_trc, context.color_range = transfer, 1
        for code in luma:
            frame = av.VideoFrame(48, 32, "yuv420p10le")
            for plane, value in zip(frame.planes, (code, 512, 512), strict=True):
                plane.update(np.full(plane.buffer_size // 2, value, np.uint16))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_film_of_high_dynamic_range_is_mapped_and_it_is_told(tmp_path, name, transfer):
    signal = [0, 0.2, pq(203) if transfer == PQ else 0.75, 1]
    luma = [round(64 + 876 * code) for code in signal]
    source = open_frames(flat_film(tmp_path / name, luma, transfer))
    told = f"high dynamic range ({NAMES[transfer]}) tone-mapped to the standard range"
    assert source.notices == (told,)
    wanted = mapped(*([code] * 3 for code in signal), transfer=transfer)
    found = [frame.float().mean((0, 1)).numpy() for frame in source]
    np.testing.assert_allclose(found, wanted, atol=3)
