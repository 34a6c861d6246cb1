"""Reads and tabulates the answers to a user study.

In the paper (CSD C.3) 20 subjects rank the methods by three questions; Tables 6 and 7 give the mean
ranks. Rank 1 is the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from csd_nerf.evaluation.tables import Column, Row, Table
from csd_nerf.json_files import read_json
from csd_nerf.media.files import check_writable, write_text

QUESTIONS = {
    "consistency": "Temporal consistency",
    "fidelity": "Instruction fidelity",
    "quality": "Editing quality",
}
"""The questions by key, with the headings of the table."""

PAPER: dict[str, dict[str, tuple[float, float, float]]] = {
    "video": {
        "FateZero": (2.37, 2.05, 2.12),
        "Pix2Video": (2.36, 2.35, 2.28),
        "CSD-Edit": (1.27, 1.6, 1.6),
    },
    "scene": {"Instruct-NeRF2NeRF": (1.61, 1.69, 1.71), "CSD-Edit": (1.39, 1.31, 1.29)},
}
"""Mean ranks of CSD Tables 6 and 7, in the order of `QUESTIONS`."""


def shown_order(ids: Sequence[str], seed: int, example: int) -> list[str]:
    """Compute the order in which the page shows an example's results.

    It is a Fisher-Yates shuffle of the sorted ids with the generator mulberry32, as in the page.

    Args:
        ids: Opaque ids of the results.
        seed: The participant's seed, 32 bits.
        example: Index of the example in the study.
    """
    state = (seed + example) & 0xFFFFFFFF
    order = sorted(ids)
    for last in range(len(order) - 1, 0, -1):
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        mixed = ((state ^ (state >> 15)) * (state | 1)) & 0xFFFFFFFF
        mixed ^= (mixed + (((mixed ^ (mixed >> 7)) * (mixed | 61)) & 0xFFFFFFFF)) & 0xFFFFFFFF
        place = (mixed ^ (mixed >> 14)) * (last + 1) >> 32
        order[last], order[place] = order[place], order[last]
    return order


def read_answers(paths: Sequence[Path], key: Path) -> list[Row]:
    """Read the answers to a study.

    Args:
        paths: Files of the answers.
        key: The .key.json beside the page.

    Returns:
        A row for each participant and method, with `participant`, the method as `arm`, and for each
        question the method's mean rank over the examples.

    Raises:
        ValueError: If a file is damaged, belongs to another study, or repeats a participant, or
            if ranks are incomplete or tied.
    """
    secret = _read_key(key)
    rows: list[Row] = []
    seen: dict[str, Path] = {}
    for path in paths:
        answers = _read_answers(path, secret, key)
        try:
            ranks = _ranks(answers, secret)
        except ValueError as error:
            raise ValueError(f"{error} The file is {path}; leave it out.") from None
        participant = answers.participant
        if participant in seen:
            raise ValueError(
                f"Each participant counts once, got {seen[participant]} and {path} of one; leave "
                "one out."
            )
        seen[participant] = path
        rows += [
            {
                "participant": participant,
                "arm": method,
                **{question: fmean(given[question]) for question in QUESTIONS},
            }
            for method, given in ranks.items()
        ]
    return rows


class _KeyExample(BaseModel):
    id: str
    name: str
    results: Annotated[dict[str, str], Field(min_length=2)]
    """Names of the methods by the opaque ids of their results."""


class _Key(BaseModel):
    study: str
    examples: Annotated[list[_KeyExample], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_the_same_methods(self) -> _Key:
        methods = sorted({*self.examples[0].results.values()})
        if any(sorted(example.results.values()) != methods for example in self.examples):
            raise ValueError("all examples need the same methods, each once")
        return self


class _Answer(BaseModel):
    id: str
    order: list[str]
    ranks: dict[str, dict[str, int]]
    """By question and result."""


class _Answers(BaseModel):
    study: str
    participant: str
    seed: Annotated[int, Field(ge=0, lt=1 << 32)]
    examples: list[_Answer]


def _read_key(path: Path) -> _Key:
    what = "the .key.json beside the page"
    return read_json(path, _Key, what=what, remedy="name another --key")


def _read_answers(path: Path, secret: _Key, key: Path) -> _Answers:
    what = "whole answers, as the page saves them"
    answers = read_json(path, _Answers, what=what, remedy="leave it out")
    if answers.study != secret.study:
        raise ValueError(f"Answers must belong to the study of {key}, got {path}; leave it out.")
    return answers


def _ranks(answers: _Answers, secret: _Key) -> dict[str, dict[str, list[int]]]:
    """The ranks of each method, by question, in all examples."""
    ranks: dict[str, dict[str, list[int]]] = {
        name: {question: [] for question in QUESTIONS}
        for name in sorted(secret.examples[0].results.values())
    }
    given = {example.id: example for example in answers.examples}
    for index, example in enumerate(secret.examples):
        names, answer = example.results, given.get(example.id)
        if answer is None:
            raise ValueError(f"Answers must be whole, and those to {example.name} are missing.")
        if answer.order != shown_order(list(names), answers.seed, index):
            raise ValueError(f"The order of {example.name} must follow from the answers' seed.")
        for question in QUESTIONS:
            mine = answer.ranks.get(question, {})
            if mine.keys() != names.keys() or sorted(mine.values()) != [*range(1, len(names) + 1)]:
                raise ValueError(
                    f"Each rank from 1 to {len(names)} is given once, got "
                    f"{list(mine.values())} for the {question} of {example.name}."
                )
            for id, rank in mine.items():
                ranks[names[id]][question].append(rank)
    return ranks


def summarize(
    paths: Sequence[Path],
    key: Path,
    output: Path,
    *,
    paper: Literal["video", "scene"] | None = None,
) -> str:
    """Write mean ranks, their deviation over participants, and the participants' agreement.

    Args:
        paths: Files of the answers.
        key: The .key.json beside the page.
        output: Markdown file to make.
        paper: Adds the numbers of CSD Table 6 (video) or 7 (scene).

    Returns:
        The text that was written.

    Raises:
        ValueError: See `read_answers`.
    """
    rows = read_answers(paths, key)
    check_writable(output)
    names = list(dict.fromkeys(row["arm"] for row in rows))
    columns = [Column(key, head, digits=2, better="lower") for key, head in QUESTIONS.items()]
    text = Table(rows, names, columns, count=None, unit="participant").markdown()
    examples = len(_read_key(key).examples)
    text += f"\nMean rank, 1 is best. Participants: {len(paths)}. Examples: {examples}.\n"
    if len(names) > 2 and len(paths) > 1:
        text += "\n" + "".join(
            f"- {head}: {_agreement(rows, names, question)}\n"
            for question, head in QUESTIONS.items()
        )
    if paper:
        theirs = [
            {"arm": name, **dict(zip(QUESTIONS, ranks, strict=True))}
            for name, ranks in PAPER[paper].items()
        ]
        table = Table(theirs, list(PAPER[paper]), columns, count=None)
        number = 6 if paper == "video" else 7
        text += f"\nCSD, Table {number} (20 participants):\n\n{table.markdown()}"
    write_text(output, text)
    return text


def _agreement(rows: Sequence[Row], names: Sequence[str], question: str) -> str:
    """Kendall's W in [0, 1] and the Friedman test's p, over the participants' mean ranks."""
    values = [[row[question] for row in rows if row["arm"] == name] for name in names]
    participants = len(values[0])
    if all(len(set(ranks)) == 1 for ranks in zip(*values, strict=True)):
        return "all methods are level"
    from scipy.stats import friedmanchisquare

    statistic, p = friedmanchisquare(*values)
    w = statistic / (participants * (len(names) - 1))
    return f"Kendall's W {w:.2f}, Friedman test p = {p:.3g}"
