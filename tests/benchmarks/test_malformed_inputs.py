"""Files of the benchmarks that are malformed in many ways: every reader ends in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from mutations import check_reader

from benchmarks.engine.records import join_records, read_record
from benchmarks.engine.trials import RECORD, Store, Trial
from benchmarks.paper.inputs import read_tasks, read_texts
from benchmarks.tables import tables_of
from benchmarks.truth.tuned import read_tuned, tuned_file, write_tuned
from benchmarks.user_study.answers import QUESTIONS, read_answers, shown_order

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_prompts_of_edits(tmp_path):
    entry = {"prompt": "make it snow", "source_caption": "a valley", "edited_caption": "snow"}
    value = {"one": entry, "two": {**entry, "input": "one"}}
    (tmp_path / "prompts.json").write_text(json.dumps(value))
    names = [(task.name, task.path.name) for task in read_tasks(tmp_path)]
    assert names == [("one", "one"), ("two", "one")]
    check_reader(tmp_path / "prompts.json", lambda: read_tasks(tmp_path))


def test_prompts_of_scenes(tmp_path):
    (tmp_path / "prompts.json").write_text(json.dumps({"corgi": "a corgi", "cube": "a cube"}))
    check_reader(tmp_path / "prompts.json", lambda: read_texts(tmp_path))


def test_trials(tmp_path):
    store, trial = Store(tmp_path), Trial({"arm": "csd"}, {"seed": 0})
    store.run(trial, lambda _: {"psnr": 20.0})
    check_reader(store.folder(trial) / RECORD, lambda: store.row(trial), least=10)


@pytest.mark.parametrize("name", ["panorama", "choice_scene"])
def test_records(tmp_path, name):
    path = tmp_path / "record.json.gz"
    packed = (RESULTS / f"{name}.json.gz").read_bytes()
    value = json.loads(gzip.decompress(packed))
    value["rows"] = value["rows"][:20]
    path.write_bytes(packed)
    assert read_record(path) == json.loads(gzip.decompress(packed))

    def read() -> None:
        try:
            tables_of(join_records([read_record(path)]))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    check_reader(path, read, value=value, pack=gzip.compress, least=12)


@pytest.mark.parametrize("data", [b"", b"no gzip", gzip.compress(b"{}", mtime=0)[:-9]])
def test_records_that_cannot_be_unpacked(tmp_path, data):
    path = tmp_path / "record.json.gz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"must be a record\.json\.gz that an experiment"):
        read_record(path)


def test_tuned_options():
    entry = {"options": {"learning_rate": 2.0, "t_range": [0.1, 0.9]}, "prior": "abc"}
    entry |= {"inputs": 6, "seeds": 1, "split": "validation", "edits": ["night"], "psnr": 20.0}
    write_tuned("video", "csd", entry)
    assert read_tuned("video")["csd"]["options"]["t_range"] == (0.1, 0.9)
    check_reader(tuned_file("video"), lambda: read_tuned("video"))


@pytest.fixture
def study(tmp_path) -> tuple[Path, Path]:
    """A key, and whole answers to its study."""
    results = [{"a1": "csd", "b2": "sds"}, {"c3": "sds", "d4": "csd"}]
    examples = [{"id": f"e{i}", "name": f"n{i}", "results": r} for i, r in enumerate(results)]
    key = tmp_path / "study.key.json"
    key.write_text(json.dumps({"study": "abc", "examples": examples}))
    given = [
        {
            "id": f"e{i}",
            "order": shown_order([*ids], 7, i),
            "ranks": {question: {id: n for n, id in enumerate(ids, 1)} for question in QUESTIONS},
        }
        for i, ids in enumerate(results)
    ]
    answers = tmp_path / "answers.json"
    whole = {"study": "abc", "participant": "p", "seed": 7, "examples": given}
    answers.write_text(json.dumps(whole))
    return key, answers


def test_answers_to_a_user_study(study):
    key, answers = study
    assert [row["quality"] for row in read_answers([answers], key)] == [1.5, 1.5]
    check_reader(answers, lambda: read_answers([answers], key))


def test_keys_of_a_user_study(study):
    key, answers = study
    check_reader(key, lambda: read_answers([answers], key))
