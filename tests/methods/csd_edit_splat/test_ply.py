"""Gaussians as files: what a run leaves, what other programs write, and what is no splat."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from nerfstudio.models import splatfacto
from plyfile import PlyData, PlyElement
from splat_runs import SIZE, start_splats

from csd_nerf.methods.csd_edit_splat.ply import Gaussians, read_ply, write_ply

COEFFICIENTS = {0: 0, 1: 3, 2: 8, 3: 15}


def columns_of(path) -> dict[str, torch.Tensor]:
    vertex = PlyData.read(str(path))["vertex"]
    return {p.name: torch.from_numpy(np.array(vertex[p.name])) for p in vertex.properties}


def drawn(degree: int, number: int = 7) -> Gaussians:
    g = torch.Generator().manual_seed(degree)
    shapes = {"means": 3, "scales": 3, "quats": 4, "features_dc": 3, "opacities": 1}
    rest = torch.randn(number, COEFFICIENTS[degree], 3, generator=g)
    return Gaussians(
        **{name: torch.randn(number, width, generator=g) for name, width in shapes.items()},
        features_rest=rest,
    )


def table_of(gaussians: Gaussians, *, normals: bool = True) -> dict[str, np.ndarray]:
    """The columns as Inria's code has them: those of a channel one after another."""
    g = gaussians
    found = {axis: g.means[:, i] for i, axis in enumerate("xyz")}
    if normals:
        found |= {f"n{axis}": torch.zeros(len(g.means)) for axis in "xyz"}
    found |= {f"f_dc_{channel}": g.features_dc[:, channel] for channel in range(3)}
    count = g.features_rest.shape[1]
    for channel in range(3):
        for k in range(count):
            found[f"f_rest_{channel * count + k}"] = g.features_rest[:, k, channel]
    found["opacity"] = g.opacities[:, 0]
    found |= {f"scale_{i}": g.scales[:, i] for i in range(3)}
    found |= {f"rot_{i}": g.quats[:, i] for i in range(4)}
    return {name: value.numpy() for name, value in found.items()}


def write_table(path, columns, *, kind="f4", text=False, byte_order="<", element="vertex"):
    number = len(next(iter(columns.values())))
    table = np.empty(number, dtype=[(name, kind) for name in columns])
    for name, values in columns.items():
        table[name] = values
    described = PlyElement.describe(table, element)
    PlyData([described], text=text, byte_order=byte_order).write(str(path))
    return path


def same(first: Gaussians, second: Gaussians) -> bool:
    return all(torch.equal(value, getattr(second, name)) for name, value in vars(first).items())


@pytest.mark.parametrize("degree", COEFFICIENTS)
def test_a_file_that_is_read_and_written_is_the_same(tmp_path, degree):
    wanted = drawn(degree)
    theirs = write_table(tmp_path / "theirs.ply", table_of(wanted))
    found, notices = read_ply(theirs)
    assert same(found, wanted)
    assert found.sh_degree == degree
    assert notices == []
    write_ply(tmp_path / "ours.ply", found)
    assert (tmp_path / "ours.ply").read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    "how",
    [
        {"kind": "f8"},
        {"byte_order": ">"},
        {"text": True, "kind": "f8"},
    ],
    ids=str,
)
def test_other_kinds_of_files_hold_the_same(tmp_path, how):
    wanted = drawn(2)
    columns = table_of(wanted, normals=False)
    turned = dict(reversed(columns.items()))
    found, notices = read_ply(write_table(tmp_path / "file.ply", turned, **how))
    assert same(found, wanted)
    assert notices == []


def test_what_is_not_used_is_told(tmp_path):
    wanted = drawn(1)
    columns = table_of(wanted)
    columns["label"] = np.arange(7.0)
    columns["x"] = columns["x"].copy()
    columns["x"][2] = np.nan
    for k in range(4):
        columns[f"rot_{k}"] = columns[f"rot_{k}"].copy()
        columns[f"rot_{k}"][5] = 0
    found, notices = read_ply(write_table(tmp_path / "file.ply", columns))
    assert same(found, wanted.take(torch.tensor([0, 1, 3, 4, 6])))
    assert notices == [
        "2 of 7 Gaussians of file.ply are left out: not finite, or without a rotation",
        "properties of file.ply that are not used: label",
    ]


def without(*names):
    return {key: value for key, value in table_of(drawn(1)).items() if key not in names}


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        (without("opacity"), "without opacity"),
        (without("scale_2", "rot_3"), "without scale_2, rot_3"),
        (without("f_rest_8"), "with 8 properties f_rest, instead of 0, 9, 24, 45"),
        (without("f_dc_0", "f_dc_1", "f_dc_2"), "without f_dc_0, f_dc_1, f_dc_2"),
        ({"packed_position": np.arange(3.0)}, "which is compressed"),
        ({key: value[:0] for key, value in table_of(drawn(1)).items()}, "no usable Gaussian"),
        ({key: value * np.nan for key, value in table_of(drawn(1)).items()}, "no usable Gaussian"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_is_no_splat_is_one_line(tmp_path, columns, what):
    path = write_table(tmp_path / "file.ply", columns)
    with pytest.raises(ValueError, match=r"A splat must be a \.ply with x y z") as caught:
        read_ply(path)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_one_line(tmp_path):
    path = write_table(tmp_path / "file.ply", table_of(drawn(3)))
    whole = path.read_bytes()
    for content, what in (
        (whole[:-20], "breaks off"),
        (b"", "no .ply"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "no .ply"),
        (whole[:60], "no .ply"),
        (whole.replace(b"element vertex 7", b"element vertex 99999999999"), "breaks off"),
        (whole.replace(b"element vertex", b"element corner"), "without the element vertex"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=what) as caught:
            read_ply(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("degree", COEFFICIENTS)
def test_a_model_of_a_file_gives_the_file_again(degree, make_splats):
    config = make_splats()
    config.pipeline.model.sh_degree = degree
    wanted = drawn(degree)
    if degree == 0:
        # Colours of splatfacto without harmonics lie in [0, 1].
        wanted.features_dc.clamp_(-1.5, 1.5)
    wanted.opacities.abs_()
    model = start_splats(config).pipeline.model
    state = {f"_model.gauss_params.{k}": v for k, v in wanted.parameters().items()}
    found = Gaussians.of_state(state, model)
    for name, value in vars(wanted).items():
        assert torch.allclose(getattr(found, name), value, atol=1e-5 if degree == 0 else 0), name


def test_files_hold_the_gaussians_and_render_the_same(make_splats, train_splats):
    trainer = train_splats(make_splats())
    folder, model = trainer.base_dir / "splats", trainer.pipeline.model
    edited = columns_of(folder / "edited.ply")
    visible = model.opacities[:, 0] >= -5.5373
    assert [*edited][:6] == ["x", "y", "z", "nx", "ny", "nz"]
    means = torch.stack([edited[axis] for axis in "xyz"], dim=1)
    assert torch.equal(means, model.means.detach()[visible])
    number = len(means)
    rest = torch.stack([edited[f"f_rest_{k}"] for k in range(9)], dim=1)
    given = {
        "means": means,
        "scales": torch.stack([edited[f"scale_{k}"] for k in range(3)], dim=1),
        "quats": torch.stack([edited[f"rot_{k}"] for k in range(4)], dim=1),
        "features_dc": torch.stack([edited[f"f_dc_{k}"] for k in range(3)], dim=1),
        # By channel, then by coefficient.
        "features_rest": rest.view(number, 3, 3).transpose(1, 2),
        "opacities": edited["opacity"][:, None],
    }
    before = trainer.pipeline.scene.render(0, size=(SIZE, SIZE)).image01
    for name, value in given.items():
        model.gauss_params[name] = torch.nn.Parameter(value)
    after = trainer.pipeline.scene.render(0, size=(SIZE, SIZE)).image01
    assert torch.allclose(before, after, atol=1e-5)
    source, both = (columns_of(folder / f"{name}.ply") for name in ("source", "before_after"))
    assert len(both["x"]) == len(source["x"]) + number
    assert torch.equal(both["x"][: len(source["x"])], source["x"])
    shift = both["x"][len(source["x"]) :] - edited["x"]
    assert float(shift.std()) < 1e-4 < 0.5 < float(shift.mean())


def test_gaussians_that_can_not_be_seen_are_left_out(make_splats):
    trainer = start_splats(make_splats())
    state = {k: v.clone() for k, v in trainer.pipeline.state_dict().items() if "gauss" in k}
    state["_model.gauss_params.opacities"][3] = -6.0
    state["_model.gauss_params.scales"][5, 1] = torch.nan
    found = Gaussians.of_state(state, trainer.pipeline.model)
    kept = [k for k in range(300) if k not in (3, 5)]
    assert torch.equal(found.means, state["_model.gauss_params.means"][kept])


def test_colours_without_harmonics_are_logits(make_splats):
    config = make_splats()
    config.pipeline.model.sh_degree = 0
    model = start_splats(config).pipeline.model
    found = Gaussians.of_state(
        {f"_model.{name}": value for name, value in model.state_dict().items()}, model
    )
    shade = splatfacto.SH2RGB(found.features_dc)
    assert torch.allclose(shade, model.seed_points[1] / 255, atol=1e-4)


def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(tmp_path):
    chance = random.Random(3)
    path = write_table(tmp_path / "file.ply", table_of(drawn(1)))
    whole, refused = path.read_bytes(), []
    header = whole.index(b"end_header") + len(b"end_header\n")
    for number in range(300):
        data = bytearray(whole)
        # The header is where most can go wrong.
        end = header if number % 3 else len(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(end)
            data[at : at + chance.choice((0, 1, 3))] = chance.randbytes(chance.choice((0, 1, 2)))
        path.write_bytes(bytes(data[: chance.randint(1, len(data))] if number % 10 == 0 else data))
        try:
            found, _ = read_ply(path)
        except ValueError as error:
            refused.append(str(error))
        else:
            assert found.is_finite.all()
    assert 100 < len(refused) < 300
    assert all(line.startswith("A splat must be a .ply") for line in refused)
    assert not any("\n" in line for line in refused)
