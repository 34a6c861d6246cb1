from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import tables
from benchmarks.engine.records import join_records, read_record, write_record
from benchmarks.tables import joined_record, tables_of
from benchmarks.truth import media, tuned, videos
from benchmarks.truth.run import run_truth
from benchmarks.truth.settings import COUNTS, TUNING_COUNTS, TruthSettings
from benchmarks.truth.tuned import SHARED
from benchmarks.truth.videos import VideoDomain

RESULTS = Path(tables.__file__).with_name("results")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder of a run with two budgets, which tests leave as it is, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as monkeypatch:
        # As for each test, before which this is made.
        monkeypatch.setattr(tuned, "FOLDER", tmp_path_factory.mktemp("tuned"))
        yield folder, run(monkeypatch, folder)


def run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    def edit(given: Any, options: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        off = (
            (0.05 if options.method == "sds" else 0.15)
            + 0.01 * options.seed
            + 0.1 * (given.name[1] == "0")
        )
        return given.truth01 + off, {"evaluations": options.updates or 1}

    monkeypatch.setattr(videos, "FRAMES", 2)
    monkeypatch.setattr(VideoDomain, "edit", staticmethod(edit))
    monkeypatch.setattr(
        media, "residuals_at_truth", lambda *_: {"csd": {"bias_0.1": 1.0}, "sds": {"bias_0.1": 0.5}}
    )
    arms = ("csd", "sds", "csd-strong")
    settings = TruthSettings(
        domain="video", output=folder, inputs=3, seeds=2, budgets=(1.0, 0.5), ablations=True
    )
    return run_truth(TruthSettings(**{**vars(settings), "arms": arms}))


def test_the_tables_of_a_record_are_those_of_the_run(finished, tmp_path, capsys):
    output, text = finished
    assert text == tables_of(joined_record([output / "record.json.gz"]))
    assert (output / "table.md").read_text() == text.rstrip() + "\n"
    moved = tmp_path / "copy.json.gz"
    moved.write_bytes((output / "record.json.gz").read_bytes())
    command.main(["tables", str(moved)])
    assert capsys.readouterr().out == text + "\n"
    for part in (
        "| sds | 6 | **",
        "| minus csd | inputs | pairs |",
        "bias at t = 0.1",
        "not tuned",
    ):
        assert part in text


def test_a_record_has_all_rows_but_no_seconds_and_no_paths(finished):
    output, _ = finished
    record = json.loads(gzip.decompress((output / "record.json.gz").read_bytes()))
    rows = json.loads((output / "results.json").read_text())["rows"]
    assert all("seconds" in row for row in rows)
    assert record["rows"] == [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    # Two references, and three arms with two seeds and another budget.
    assert len(record["rows"]) == 3 * (2 + 3 * 3)
    assert {"torch", "csd_nerf"} <= record["versions"].keys()
    assert (record["settings"]["inputs"], record["settings"]["seeds"]) == (3, 2)
    assert str(output) not in json.dumps(record)
    assert "seconds" not in (output / "table.md").read_text()


def test_equal_results_make_equal_files(finished):
    output, _ = finished
    before = (output / "record.json.gz").read_bytes()
    asked = json.loads((output / "results.json").read_text())["settings"]
    lists = {name: tuple(asked.pop(name)) for name in ("budgets", "arms")}
    run_truth(TruthSettings(output=output, **asked, **lists))
    assert (output / "record.json.gz").read_bytes() == before


def test_what_is_no_record_is_named(tmp_path):
    path = tmp_path / "record.json.gz"
    with pytest.raises(FileNotFoundError, match="A record must be a file that exists, got"):
        joined_record([path])
    for content in (b"text", gzip.compress(b"{}"), gzip.compress(b"[1]")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"must be a record.json.gz that an exp"):
            joined_record([path])
    record = read_record(RESULTS / "panorama.json.gz")
    write_record(path, {**record, "experiment": "magic"})
    with pytest.raises(ValueError, match=r"needs to be of truth.*, got one of 'magic'"):
        joined_record([path])


def test_the_committed_records_make_tables():
    for path in RESULTS.glob("*.json.gz"):
        assert "| --- |" in tables_of(joined_record([path])), path.name


def test_the_default_numbers_are_those_of_the_domain(tmp_path):
    def counts(domain: str, **given: Any) -> tuple[int, int]:
        found = TruthSettings(domain=domain, output=tmp_path, **given).counts
        return found.inputs, found.seeds

    for domain in ("panorama", "video"):
        assert counts(domain) >= (10, 3)
        assert counts(domain, ablations=True) >= (10, 3)
        assert counts(domain)[1] == 3
    assert counts("scene") == (8, 2)
    assert counts("choice") == (30, 5)
    assert counts("video", inputs=5) == (5, 3)
    assert counts("video", seeds=1) == (12, 1)
    assert counts("scene", tune=True) == (4, 1)
    untuned = COUNTS.keys() - TUNING_COUNTS.keys()
    assert untuned == {"splat-scene", "choice-scene"} <= SHARED.keys()


def part(record: dict[str, Any], keep: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The record of a run of some trials; references were run by every one."""
    rows = [row for row in record["rows"] if row["arm"] in record["references"] or keep(row)]
    arms = [arm for arm in record["arms"] if any(row["arm"] == arm for row in rows)]
    return {**record, "rows": rows, "arms": arms, "residuals": [], "tuning": f"- {arms[-1]}\n"}


def test_records_of_arms_and_seeds_are_joined(finished, tmp_path, capsys):
    whole = read_record(finished[0] / "record.json.gz")
    parts = (
        part(whole, lambda row: row["arm"] == "csd"),
        part(whole, lambda row: row["arm"] == "sds" and row["seed"] == 0),
        part(whole, lambda row: row["arm"] == "sds" and row["seed"] == 1),
    )
    assert len(parts[1]["rows"]) < len(parts[0]["rows"])
    files = [tmp_path / f"{number}.json.gz" for number in range(3)]
    for file, record in zip(files, parts, strict=True):
        write_record(file, record)
    kept = tmp_path / "joined.json.gz"
    command.main(["tables", *map(str, files), "--output", str(kept)])
    printed = capsys.readouterr().out
    meant = part(whole, lambda row: row["arm"] in ("csd", "sds"))
    joined = read_record(kept)
    assert sorted(map(str, joined["rows"])) == sorted(map(str, meant["rows"]))
    assert printed.split("Options of")[0] == tables_of(meant).split("Options of")[0]
    assert "- csd\n- sds\n" in printed
    assert printed.count("- sds\n") == 1
    assert joined["settings"]["arms"] == joined["arms"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"versions": {"torch": "1.0"}}, "the same versions, got"),
        ({"weights": "of another training"}, "the same weights, got .* and of another training"),
        ({"experiment": "paper"}, "the same experiment, got truth and paper"),
    ],
)
def test_records_of_other_runs_are_not_joined(finished, change, text):
    whole = read_record(finished[0] / "record.json.gz")
    first, other = (part(whole, lambda row, arm=arm: row["arm"] == arm) for arm in ("csd", "sds"))
    with pytest.raises(ValueError, match=text):
        join_records([first, {**other, **change}])
    settings = {**other["settings"], "split": "validation"}
    with pytest.raises(ValueError, match="the same split, got benchmark and validation"):
        join_records([first, {**other, "settings": settings}])
    with pytest.raises(ValueError, match=r"got two of input 00 night, arm csd, budget 1.0, seed 0"):
        join_records([first, first])
