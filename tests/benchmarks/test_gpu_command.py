"""`python -m benchmarks gpu`: its stages run on a CPU with tiny models; none stops the others."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import marked_tests, prior_stages
from benchmarks.gpu.bench import Bench, Stage
from benchmarks.gpu.models import random_model
from benchmarks.gpu.report import GOALS, page
from benchmarks.gpu.run import run_gpu
from benchmarks.gpu.settings import GpuSettings
from benchmarks.gpu.sizes import FULL, TINY

CPU = torch.device("cpu")


def settings(output: Path, **options) -> GpuSettings:
    return GpuSettings(**{"output": output, "device": "cpu", "scale": "tiny", **options})


def results(output: Path) -> list[dict]:
    return json.loads((output / "results.json").read_text())["stages"]


@pytest.fixture
def few_tests(tmp_path, monkeypatch) -> None:
    """One marked test that passes, one that is skipped, and one that isn't marked."""
    path = tmp_path / "test_marked.py"
    path.write_text(
        "import pytest\n"
        "@pytest.mark.gpu\ndef test_a(): pass\n"
        "@pytest.mark.gpu\n@pytest.mark.skip\ndef test_b(): pass\n"
        "def test_c(): assert False\n"
    )
    monkeypatch.setattr(marked_tests, "marked_files", lambda: [path])


def test_all_stages_run_on_a_cpu_with_tiny_models(tmp_path, few_tests, capsys):
    output = tmp_path / "out"
    assert run_gpu(settings(output)) == 0, capsys.readouterr().out
    found = {stage["name"]: stage for stage in results(output)}
    assert {*found} == {goal.stage for goal in GOALS} | {
        *("tests", "vae", "csd-edit", "csd-edit-splat", "splats", "evaluation-klein")
    }
    assert found["tests"]["rows"] == [{"files": 1, "passed": 1, "skipped": 1}]
    for name in ("csd-edit", "csd-edit-splat"):
        (row,) = found[name]["rows"]
        # Two rounds of an iteration: five evaluations of each of two views.
        assert (row["method"], row["rounds"], row["evaluations"]) == (f"{name}-tiny", 2, 20)
    for model in ("sd15", "klein"):
        # What is predicted is counted on the same classes; all but the allowance for workspaces.
        assert found[f"memory-{model}"]["goals"][f"memory-{model}"] < 15
    text = (output / "results.md").read_text()
    assert all(f"## {stage['heading']}\n" in text for stage in found.values())
    assert text.strip() == capsys.readouterr().out.strip()
    assert "these figures mean nothing" in text
    # Goals are for a GPU.
    assert text.count("| not run |") == len(GOALS)


def _ok(bench: Bench) -> dict:
    return {"rows": [{"speed": 1.23456, "of": "it"}], "goals": {"iteration": 3.5}}


def test_a_stage_that_fails_is_told_in_a_line_and_the_next_goes_on(tmp_path, capsys):
    written = []

    def look(bench: Bench) -> dict:
        written.append(results(tmp_path))
        return _ok(bench)

    def fail(bench: Bench) -> dict:
        raise RuntimeError("CUDA error\nand much more")

    def leave(bench: Bench) -> dict:
        raise SystemExit("csd-edit: no data")

    stages = [
        Stage(name, name.title(), 1, run)
        for name, run in (("first", fail), ("second", leave), ("third", look), ("fourth", _ok))
    ]
    assert run_gpu(settings(tmp_path), stages) == 1
    (before,) = written
    assert [stage.get("error") for stage in before] == [
        "RuntimeError: CUDA error",
        "SystemExit: csd-edit: no data",
        None,
        None,
    ]
    # What is yet to come is in the file, as not run, should the run be broken off.
    assert before[3]["not_run"] == "the run ended before it."
    assert [*results(tmp_path)[3]] == ["name", "heading", "rows", "goals", "seconds"]
    text = capsys.readouterr().out
    assert "## First\n\nFailed after 0 s: RuntimeError: CUDA error\n" in text
    assert "| speed | of |\n| --- | --- |\n| 1.235 | it |\n" in text


def test_a_stage_that_takes_longer_than_what_is_left_is_not_begun(tmp_path, monkeypatch):
    from benchmarks.gpu import run

    class Large(Bench):
        def __init__(self, device, sizes, is_tiny, *rest) -> None:
            super().__init__(device, sizes, False, *rest)

    monkeypatch.setattr(run, "Bench", Large)
    stages = [Stage("long", "Long", 61, _ok), Stage("short", "Short", 30, _ok)]
    assert run_gpu(settings(tmp_path, minutes=1.0), stages) == 0
    long, short = results(tmp_path)
    assert long["not_run"] == "it takes about 61 s, and 60 s were left."
    assert short["rows"]


def test_only_the_stages_that_are_named_run(tmp_path):
    run_gpu(settings(tmp_path, only=("vae",)))
    (stage,) = results(tmp_path)
    assert [row["autoencoder"] for row in stage["rows"]] == ["encode", "decode"]


def test_goals_are_met_or_not_met_or_not_run():
    goals = {"evaluation": 2.3, "iteration": 3.5, "memory-sd15": 15.0}
    record = {
        "settings": {"minutes": 9.0, "device": "cuda", "scale": "full"},
        "machine": {"gpu": "H200", "driver": "580.1"},
        "stages": [{"heading": "All", "rows": [{"a": 1}], "seconds": 1.0, "goals": goals}],
        "seconds": 1.0,
        "told": ["It was compiled."],
    }
    text = page(record)
    lines = [line for line in text.splitlines() if line.startswith("| ") and "at " in line]
    assert [line.split(" | ")[-1] for line in lines] == ["not met |", "met |", "met |", "not run |"]
    assert "gpu H200, driver 580.1" in text
    assert "- It was compiled." in text


def test_each_call_is_timed_in_its_own_mode_and_batch(tmp_path, monkeypatch):
    compiled: list[tuple[str | None, int]] = []

    def compile(network, *, dynamic, mode):
        def call(image, *rest, **named):
            compiled.append((mode, len(image)))
            return network(image, *rest, **named)

        return call

    monkeypatch.setattr(torch, "compile", compile)
    calls = (("eager", 1), ("on", 17), ("on", 16), ("graphs", 2))
    sizes = replace(TINY, sd15_calls=calls, compile=True)
    bench = Bench(CPU, sizes, True, tmp_path, lambda: math.inf)
    found = prior_stages.evaluation_sd15(bench)
    assert [(row["denoiser"], row["calls of"]) for row in found["rows"]] == [*calls]
    # A warm-up and a repetition each.
    usual = [(None, 17)] * 2 + [(None, 16)] * 2
    assert compiled == [*usual, *[("reduce-overhead", 2)] * 2]
    worst = max(row["ms an evaluation"] for row in found["rows"][1:3])
    assert found["goals"] == {"evaluation": worst}
    assert len(bench.told) == 3


def test_full_size_has_calls_of_sixteen_and_more_as_people_run_it():
    assert {batch for mode, batch in FULL.sd15_calls if mode == "on"} == {16, FULL.max_batch}
    assert FULL.particles == (4, 16, 24)


def test_random_models_have_the_real_ones_numbers_of_parameters():
    prior = random_model("instruct-pix2pix", device=torch.device("meta"), dtype=torch.float16)
    count = sum(weight.numel() for weight in prior.unet.parameters())
    assert round(count / 1e6, 1) == 859.5
    assert {weight.dtype for weight in prior.unet.parameters()} == {torch.float16}
    assert prior.encode_text(["a", "b"])["text"].shape == (2, 77, 768)


def test_tests_with_the_mark_are_found():
    names = {path.name for path in marked_tests.marked_files()}
    assert {"test_placement.py", "test_compositing.py", "test_editor.py"} <= names
    assert "test_names.py" not in names


def test_failing_tests_are_a_failed_stage(tmp_path, monkeypatch):
    asked = []

    def run(command, **options):
        asked.append((command, options["timeout"]))
        return subprocess.CompletedProcess(command, 1, "E assert False\n1 failed in 2 s", "")

    monkeypatch.setattr(subprocess, "run", run)
    bench = Bench(CPU, TINY, True, tmp_path, lambda: 100.0)
    with pytest.raises(RuntimeError, match=r"pytest ended with 1: .*1 failed.*; see tests\.txt\."):
        marked_tests.gpu_tests(bench)
    assert "assert False" in (tmp_path / "tests.txt").read_text()
    ((command, timeout),) = asked
    # The first file with the mark, as TINY says, and half of the time.
    assert command[2:5] == ["pytest", "-m", "gpu"]
    assert command[-1] == str(marked_tests.marked_files()[0])
    assert timeout == 50.0


def test_minutes_must_be_positive():
    with pytest.raises(ValueError, match=r"--minutes must be positive, got 0\.0\."):
        GpuSettings(output=Path("x"), minutes=0.0)
