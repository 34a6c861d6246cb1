from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from PIL import Image

from benchmarks.engine.trials import Store
from benchmarks.paper import images, scenes, tiny
from benchmarks.paper.inputs import Task, read_tasks
from benchmarks.paper.paper import EXPERIMENTS
from benchmarks.paper.report import beside_paper, with_ratios, write_report
from benchmarks.paper.run import run_paper
from benchmarks.paper.settings import PaperSettings, TinySize
from benchmarks.paper.setup import Setup
from benchmarks.truth import panoramas, scene_runs, videos
from benchmarks.truth import scenes as truth_scenes
from benchmarks.truth.grids import GRIDS
from csd_nerf.evaluation import clip, fid
from csd_nerf.evaluation import similarity as metrics
from csd_nerf.evaluation.networks import Networks
from csd_nerf.evaluation.scene_runs import SceneRun
from csd_nerf.media.images import write_image
from csd_nerf.synthetic.edits import all_edits

SMALLEST = TinySize(inputs=1, options={"iterations": 1, "steps": 1}, shrink=8, view_edge=16)


class MeanColour:
    """Stands in for CLIP: an image's feature is its mean colour, a text's its letters."""

    def image_features(self, image01, max_batch=16):
        return torch.nn.functional.normalize(image01.mean((2, 3)) + 0.01, dim=1)

    def text_features(self, texts):
        counts = [[1.0 + text.count(letter) for letter in "eao"] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(counts), dim=1)


class PixelDistance(torch.nn.Module):
    """Stands in for the network of LPIPS."""

    def forward(self, image01, other01, *, normalize):
        assert normalize
        return (image01 - other01).abs().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def networks(monkeypatch):
    """Networks that need no weights."""
    monkeypatch.setattr(clip, "load_clip", lambda name, device: MeanColour())
    lpips = metrics.Lpips(PixelDistance(), torch.device("cpu"))
    monkeypatch.setattr(metrics, "load_lpips", lambda device: lpips)
    monkeypatch.setattr(
        fid,
        "load_inception",
        lambda weights, device: lambda image01: image01.mean((2, 3)),
    )


@pytest.fixture(autouse=True)
def small_inputs(monkeypatch):
    monkeypatch.setattr(panoramas, "PANORAMA_SIZE", (64, 96))
    monkeypatch.setattr(videos, "FRAMES", 2)


def missing_networks(monkeypatch):
    def fail(*_, **__):
        raise FileNotFoundError("weights are not there")

    monkeypatch.setattr(clip, "load_clip", fail)
    monkeypatch.setattr(metrics, "load_lpips", fail)
    monkeypatch.setattr(fid, "load_inception", fail)


def rows_of(table: str) -> dict[str, list[str]]:
    """Cells by the line's name."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def write_frames(folder: Path, count: int, colour: tuple[int, int, int]) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (20, 20), colour).save(folder / f"{index}.png")


EDITS_OF_PICTURES = sorted(
    name for name, experiment in EXPERIMENTS.items() if experiment.kind in ("panorama", "video")
)


@pytest.mark.parametrize("name", EDITS_OF_PICTURES)
@pytest.mark.usefixtures("networks")
def test_every_experiment_on_pictures_runs_and_stands_beside_the_paper(name, tmp_path):
    settings = PaperSettings(experiment=name, output=tmp_path, tiny=True, clip="stub")
    rows = rows_of(run_paper(settings, size=SMALLEST))
    heads = rows["method"]
    experiment = EXPERIMENTS[name]
    assert [head.strip("↑↓ ") for head in heads[: len(experiment.columns)]] == [
        column.heading for column in experiment.columns
    ]
    for line in experiment.lines:
        if line.method is not None:
            measured = rows[line.name][: len(experiment.columns)]
            assert all(measured), f"{line.name} lacks a measure: {measured}"
        for place, column in enumerate(experiment.columns):
            if column.key in line.paper:
                cell = rows[f"{line.name} (paper)"][place]
                assert cell == f"{line.paper[column.key][0]:.{column.digits}f}"
    for suffix in (".md", ".tex", ".csv", ".png"):
        assert (tmp_path / f"{name}{suffix}").stat().st_size > 0
    # What a line's name promises of the paper's settings is taken back where --tiny sets another.
    told = "CSD-Edit, w_y 3: text_scale 1.0" in (tmp_path / f"{name}.md").read_text()
    assert told == (name in ("figure5", "figure7"))


@pytest.mark.parametrize("name", ["table2", "table3"])
def test_the_paper_s_experiments_mix_as_the_paper_does_with_the_tiny_prior_too(name, tmp_path):
    settings = PaperSettings(experiment=name, output=tmp_path, tiny=True)
    setup = Setup(EXPERIMENTS[name], settings, Store(tmp_path), Networks(clip=None), SMALLEST)
    lines = {line.method: line for line in setup.experiment.lines if line.method}
    values = images.line_options(setup, lines["csd"], "make it night").values()
    assert (values.mixing, values.noise) == ("stein", "shared")
    for method in {"csd-no-stein", "sds"} & {*lines}:
        assert images.line_options(setup, lines[method], "fog").values().mixing == "none"
    # A look would keep the photograph's detail by itself.
    assert images.line_options(setup, lines["csd"], "make it night").keep_detail is False


def test_without_weights_the_truth_still_judges(tmp_path, monkeypatch):
    missing_networks(monkeypatch)
    settings = PaperSettings(experiment="table3", output=tmp_path, tiny=True, clip="some")
    table = run_paper(settings, size=SMALLEST)
    rows = rows_of(table)
    assert rows["method"][-1].startswith("PSNR")
    assert rows["CSD-Edit"][:3] == ["", "", ""]
    assert float(rows["CSD-Edit"][3]) > 3
    left_out = "CLIP consistency, CLIP direction, LPIPS of frames left out: weights are not there"
    assert left_out in table


@pytest.fixture
def made(monkeypatch):
    """The edits that are made, by their methods."""
    methods = []
    edit = images._edit

    def counted(prior, source, options):
        methods.append(options.method)
        return edit(prior, source, options)

    monkeypatch.setattr(images, "_edit", counted)
    return methods


def tiny_table3(output, size=SMALLEST, **options):
    settings = PaperSettings(experiment="table3", output=output, tiny=True, **options)
    return rows_of(run_paper(settings, size=size))


@pytest.mark.usefixtures("networks")
def test_what_is_finished_is_not_run_again(tmp_path, made):
    first = tiny_table3(tmp_path)
    assert made == ["csd", "csd-no-stein", "sds"]
    records = [*tmp_path.glob("trials/*/trial.json")]
    assert len(records) == 3
    # An edit of which nothing was written down is made anew, the others are not.
    (sds,) = (path for path in records if json.loads(path.read_text())["labels"]["line"] == "SDS")
    sds.unlink()
    assert tiny_table3(tmp_path) == first
    assert made[3:] == ["sds"]


@pytest.mark.usefixtures("networks")
def test_results_of_other_options_inputs_or_weights_are_made_anew(tmp_path, made, monkeypatch):
    tiny_table3(tmp_path)
    longer = replace(SMALLEST, options={"iterations": 2, "steps": 1})
    tiny_table3(tmp_path, size=longer)
    assert len(made) == 6
    draw = tiny.DRAW["video"]
    monkeypatch.setitem(tiny.DRAW, "video", lambda position, split: draw(position + 1, split))
    tiny_table3(tmp_path)
    assert len(made) == 9
    monkeypatch.setattr(images, "weights_digest", lambda name: "of other weights")
    tiny_table3(tmp_path)
    assert len(made) == 12
    tiny_table3(tmp_path)
    assert len(made) == 12


@pytest.mark.usefixtures("networks")
def test_clip_that_comes_later_judges_what_is_kept(tmp_path, made):
    assert not tiny_table3(tmp_path)["CSD-Edit"][0]
    assert tiny_table3(tmp_path, clip="stub")["CSD-Edit"][0]
    assert len(made) == 3


@pytest.mark.usefixtures("networks")
def test_experiments_that_share_a_folder_share_their_edits(tmp_path, made):
    tiny_table3(tmp_path)
    run_paper(PaperSettings(experiment="table1", output=tmp_path, tiny=True), size=SMALLEST)
    assert len(made) == 3
    assert (tmp_path / "table1.md").is_file()
    assert (tmp_path / "table3.md").is_file()


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    write_frames(folder / "bear", 3, (90, 60, 30))
    texts = {"prompt": "p", "source_caption": "a", "edited_caption": "e"}
    (folder / "prompts.json").write_text(json.dumps({"bear": texts}))
    return folder


@pytest.mark.usefixtures("networks")
def test_peers_enter_as_folders(data, tmp_path, monkeypatch):
    write_frames(tmp_path / "fate" / "bear", 3, (10, 200, 30))
    write_frames(tmp_path / "pix" / "bear", 3, (10, 20, 200))
    settings = PaperSettings(
        experiment="table1",
        output=tmp_path / "out",
        data=data,
        peer=(f"FateZero={tmp_path / 'fate'}", f"Pix2Video={tmp_path / 'pix'}"),
    )
    monkeypatch.setattr(images, "_load_prior", lambda *_: None)
    monkeypatch.setattr(images, "weights_digest", lambda name: name)
    # The negative, whose distance from the source in colour is known.
    seconds = {"edit": 2.0, "decode": 1.0}
    monkeypatch.setattr(
        images,
        "_edit",
        lambda prior, source, options: (
            255 - source,
            {"seconds": seconds, "evaluations": 5, "iterations": 8},
        ),
    )
    monkeypatch.setattr("benchmarks.paper.inputs.FRAME_EDGE", 32)
    rows = rows_of(run_paper(settings))

    def unit(*values: float) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.tensor(values), dim=0)

    def feature(red: int, green: int, blue: int) -> torch.Tensor:
        return unit(red / 255 + 0.01, green / 255 + 0.01, blue / 255 + 0.01)

    text = torch.nn.functional.normalize(unit(2.0, 1.0, 1.0) - unit(1.0, 2.0, 1.0), dim=0)
    for name, colour in {
        "FateZero": (10, 200, 30),
        "Pix2Video": (10, 20, 200),
        "CSD-Edit": (165, 195, 225),
    }.items():
        change = torch.nn.functional.normalize(feature(*colour) - feature(90, 60, 30), dim=0)
        assert float(rows[name][0]) == pytest.approx(float(change @ text), abs=6e-4)
        assert rows[name][1:3] == ["1.000", "0.000"], "Equal frames are consistent."
    shutil.rmtree(tmp_path / "fate" / "bear")
    write_frames(tmp_path / "fate" / "bear", 3, (10, 20, 200))
    again = rows_of(run_paper(settings))
    assert again["FateZero"] == rows["Pix2Video"], "Other results of a peer are measured anew."


@pytest.mark.usefixtures("networks")
def test_a_peer_needs_the_frames_of_its_input(data, tmp_path):
    write_frames(tmp_path / "fate" / "bear", 2, (0, 0, 0))
    peer = (f"FateZero={tmp_path / 'fate'}",)
    output = tmp_path / "out"
    settings = PaperSettings(experiment="table1", output=output, data=data, peer=peer)
    with pytest.raises(ValueError, match="as many frames as its input, 3, got 2"):
        run_paper(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experiment": "table1"}, r"table1 needs its inputs by --data"),
        ({"experiment": "table1", "data": Path("/nowhere")}, r"--data must exist"),
        ({"experiment": "table1", "data": Path(__file__).parent}, r"must hold prompts\.json"),
        ({"experiment": "table8", "data": Path(__file__).parent}, r"--data needs pictures"),
        (
            {"experiment": "table3", "tiny": True, "peer": ("FateZero=.",)},
            r"peers of these names: none; got --peer FateZero",
        ),
        (
            {"experiment": "table1", "tiny": True, "peer": ("FateZero=/nowhere",)},
            r"--peer FateZero must be a folder",
        ),
        ({"experiment": "table1", "tiny": True, "data": Path()}, r"leave out --data"),
    ],
)
def test_mistakes_end_in_one_line(settings, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        run_paper(PaperSettings(output=tmp_path, **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "must be JSON with entries such as .*, but can't be read"),
        ("{}", "the whole: .* at least 1 item"),
        ('{"bear": {"prompt": "p"}}', "bear.source_caption: Field required; mend it"),
        (
            '{"bear": {"prompt": "p", "source_caption": "a", "edited_caption": "b", "x": "y"}}',
            "bear.x: Extra inputs are not permitted, got 'y'",
        ),
    ],
)
def test_prompts_of_another_form_are_refused(text, message, tmp_path):
    (tmp_path / "prompts.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_tasks(tmp_path)


def test_peers_are_named(tmp_path):
    (tmp_path / "c=d").mkdir()
    given = (f"FateZero={tmp_path}", f"x={tmp_path / 'c=d'}")
    settings = PaperSettings(experiment="table1", output=tmp_path, tiny=True, peer=given)
    assert settings.peers == {"FateZero": tmp_path, "x": tmp_path / "c=d"}
    for wrong in (["FateZero"], ["=a"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(ValueError, match="--peer needs NAME=DIR"):
            replace(settings, peer=tuple(wrong))


def test_the_command_knows_all_experiments():
    assert get_args(get_type_hints(PaperSettings)["experiment"]) == (*EXPERIMENTS,)


def test_ratios_are_to_the_line_on_the_same_input():
    experiment = EXPERIMENTS["table8"]
    rows = [
        {"line": line.name, "input": name, "seconds": seconds}
        for name, times in {"a": (10, 5, 40, 10), "b": (20, 5, 40, 20)}.items()
        for line, seconds in zip(experiment.lines, times, strict=True)
    ]
    ratios = [row["ratio"] for row in with_ratios(experiment, rows)]
    assert ratios == [1, 0.5, 1, 0.25, 1, 0.25, 1, 0.5]
    cells = rows_of(beside_paper(experiment, rows, experiment.columns).markdown())
    assert cells["CSD-Edit, 1920x640 (paper)"] == ["68.0", "1.10"]
    assert cells["CSD-Edit, 3968x4352 (paper)"] == ["275.0", "0.56"]


def test_table10_stands_under_the_right_heads():
    """C.5: a larger batch dilutes the edit and keeps more of the source."""
    lines = EXPERIMENTS["table10"].lines
    direction, similarity = (
        [line.paper[key][0] for line in lines] for key in ("clip_direction", "clip_source")
    )
    assert direction == sorted(direction, reverse=True) == [0.240, 0.217, 0.195]
    assert similarity == sorted(similarity) == [0.639, 0.692, 0.739]


def test_the_report_says_what_follows_from_the_papers_own_numbers(tmp_path):
    """The figures in the notes, computed again from those in the tables."""
    rates = {int(line.name[2:]): line.paper["rate"][0] for line in EXPERIMENTS["table10"].lines}
    times = [line.paper["seconds"][0] for line in EXPERIMENTS["table8"].lines]
    small, ours, large, ours_large = times
    figures = {
        "table8": [
            f"68 / 62 = {ours / small:.2f} and 275 / 487 = {ours_large / large:.2f}",
            f"68 s are {ours * rates[4]:.0f} iterations (C.5 names 200)",
            f"275 s are {ours_large * rates[4]:.0f}.",
            f"487 / 62 = {large / small:.1f} tell",
            f"takes {868 / 24:.0f} times",
        ],
        "table10": [
            "{:.0f}, {:.0f} and {:.0f} s".format(*(200 / rate for rate in rates.values())),
            f"{rates[8] / rates[4]:.2f} and {rates[12] / rates[4]:.2f} of B=4",
            "{:.1f}, {:.1f} and {:.1f} windows".format(*(b * r for b, r in rates.items())),
            "the heads are swapped",
        ],
    }
    for name, expected in figures.items():
        settings = PaperSettings(experiment=name, output=tmp_path, tiny=True)
        setup = Setup(EXPERIMENTS[name], settings, Store(tmp_path), Networks(clip=None), TinySize())
        text = write_report(setup, [])
        said = [line for line in text.splitlines() if line.startswith("- From the paper's own: ")]
        for figure in expected:
            assert any(figure in line for line in said), figure


class SceneStub:
    """Stands in for the benchmark's scenes, whose training takes a minute each."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def draw_scene(self, position, split, store):
        assert split == "benchmark"
        folder = store.output / "data"
        folder.mkdir(parents=True, exist_ok=True)
        edit = all_edits()["negative"]
        return scene_runs.SceneInput(f"{position:02d} negative", edit, folder)

    def train_source(self, given, store, *, steps):
        assert steps == 7
        return store.output / "checkpoint"

    def run_scene_arm(self, name, given, source, folder, *, prior, options, csd):
        assert csd == {"updates": 3}
        tuned = {} if name == "source" else GRIDS["scene"].methods[name].start
        assert options == {**tuned, "updates": 3}
        self.runs.append(name)
        truth01 = torch.full((2, 3, 32, 32), 0.8)
        edited01 = {"source": 1 - truth01, "csd": truth01}.get(name, truth01 - 0.2)
        return scene_runs.SceneResult(edited01, truth01, edited01, 9, 1.5, 0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "methods"), [("table2", ["in2n", "csd"]), ("table4", ["csd", "csd-no-stein", "sds"])]
)
@pytest.mark.usefixtures("networks")
def test_scenes_are_edited_by_the_benchmarks_machinery(name, methods, tmp_path, monkeypatch):
    stub = SceneStub()
    monkeypatch.setattr(truth_scenes, "draw_scene", stub.draw_scene)
    for function in ("train_source", "run_scene_arm"):
        monkeypatch.setattr(scene_runs, function, getattr(stub, function))
    size = TinySize(inputs=1, source_steps=7, scene={"updates": 3})
    settings = PaperSettings(experiment=name, output=tmp_path, tiny=True, clip="stub")
    table = run_paper(settings, size=size)
    rows = rows_of(table)
    assert stub.runs == ["source", *methods]
    other = next(line.name for line in EXPERIMENTS[name].lines if line.method != "csd")
    # 0.2 from the truth, in 8 bits: 20 log10(5).
    assert float(rows[other][3]) == pytest.approx(13.98, abs=0.06)
    assert rows["CSD-Edit"][3] == ""
    assert "PSNR, dB left out: it equals the truth: the PSNR is infinite" in table
    run_paper(settings, size=size)
    assert len(stub.runs) == 1 + len(methods), "What is finished is not run again."


def test_real_scenes_are_edited_by_ns_train(data, tmp_path, monkeypatch):
    runs: list[SceneRun] = []
    rendered = []

    def train(run: SceneRun) -> Path:
        runs.append(run)
        return run.folder / "config.yml"

    def render(config):
        rendered.append(config)
        return torch.full((3, 32, 32, 3), 25 * len(rendered)).byte()

    monkeypatch.setattr(SceneRun, "train", train)
    monkeypatch.setattr(scenes, "render_path", render)
    monkeypatch.setattr(scenes, "weights_digest", lambda name: name)
    monkeypatch.setattr(scenes, "_prior_name", lambda method: method)
    missing_networks(monkeypatch)
    settings = PaperSettings(experiment="table2", output=tmp_path / "out", data=data)
    run_paper(settings)
    assert [run.method for run in runs] == ["nerfacto", "csd-edit", "csd-edit"]
    assert {run.data for run in runs} == {data / "bear"}
    source, in2n, csd = (" ".join(run.command) for run in runs)
    assert "--max-num-iterations 30000" in source
    for edit in (in2n, csd):
        assert f"--load-dir {runs[0].folder / 'nerfstudio_models'}" in edit
        assert "--pipeline.prompt p" in edit
    published = "--pipeline.update in2n --pipeline.edit-views 1 --pipeline.edit-every 10"
    assert published in in2n
    assert "--pipeline.update" not in csd
    assert rendered == [run.folder / "config.yml" for run in runs]
    run_paper(settings)
    assert len(runs) == 3, "What is finished is not run again."
    texts = {"prompt": "another", "source_caption": "a", "edited_caption": "e"}
    (data / "prompts.json").write_text(json.dumps({"bear": texts}))
    run_paper(settings)
    assert [run.method for run in runs[3:]] == ["csd-edit", "csd-edit"]
    write_image(data / "bear" / "0.png", torch.zeros(20, 20, 3).byte())
    run_paper(settings)
    assert [run.method for run in runs[5:]] == ["nerfacto", "csd-edit", "csd-edit"]


def test_ns_train_commands_are_whole():
    task = Task("b", "make it b", "a", "b", Path("data/a"))
    line = EXPERIMENTS["table4"].lines[2]
    command = scenes.edit_run(task, line, Path("runs"), Path("source"), "small").command
    assert command[0].endswith("/ns-train")
    assert command[1] == "csd-edit-small"
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert options["--pipeline.edit.residual"] == "sds"
    assert options["--pipeline.edit.mixing"] == "none"
    assert options["--load-dir"] == "source"
    assert options["--vis"] == "tensorboard"


def test_a_scene_method_has_a_prior_by_its_preset():
    """Its weights decide a result."""
    assert scenes._prior_name("csd-edit-tiny") == "tiny"


@pytest.mark.usefixtures("networks")
def test_generated_views_are_scored(tmp_path):
    data = tmp_path / "data"
    write_frames(data / "reference", 3, (0, 0, 0))
    (data / "prompts.json").write_text('{"corgi": "eee"}')
    grey = (100, 100, 100)
    for peer, colour in {"csd": (255, 0, 0), "sds": grey}.items():
        write_frames(tmp_path / peer / "corgi" / "colour", 12, colour)
        write_frames(tmp_path / peer / "corgi" / "depth", 12, grey)
    peers = tuple(f"{name}={tmp_path / name}" for name in ("csd", "sds"))
    output = tmp_path / "out"
    settings = PaperSettings(experiment="table5", output=output, data=data, peer=peers)
    table = run_paper(settings)
    rows = rows_of(table)
    text = torch.nn.functional.normalize(torch.tensor([4.0, 1.0, 1.0]), dim=0)
    for name, colour in {"CSD": (1.01, 0.01, 0.01), "SDS": (1.0, 1.0, 1.0)}.items():
        feature = torch.nn.functional.normalize(torch.tensor(colour), dim=0)
        assert float(rows[name][0]) == pytest.approx(float(feature @ text), abs=6e-4)
    # Features without spread: FID is the squared distance of the mean colours.
    assert float(rows["CSD"][2]) == pytest.approx(1.0, abs=0.05)
    assert float(rows["SDS"][2]) == pytest.approx(3 * (100 / 255) ** 2, abs=0.06)
    assert "Rendered views are scored" in table
    write_image(tmp_path / "csd" / "corgi" / "depth" / "z.png", torch.zeros(8, 8, 3).byte())
    with pytest.raises(ValueError, match=r"12 views, every 30 degrees.*got 13"):
        run_paper(settings)


def test_table5_asks_for_its_folders(data, tmp_path):
    with pytest.raises(ValueError, match=r"needs folders of rendered views, .* add --peer sds=DIR"):
        run_paper(PaperSettings(experiment="table5", output=tmp_path, data=data))


@pytest.mark.usefixtures("networks")
def test_table5_runs_on_synthetic_views(tmp_path):
    settings = PaperSettings(experiment="table5", output=tmp_path, tiny=True, clip="stub")
    rows = rows_of(run_paper(settings, size=SMALLEST))
    assert all(rows["CSD"])
    assert all(rows["SDS"])
    assert len([*(tmp_path / "reference").iterdir()]) == 12
