"""The page of results: goals, and a table a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A number that is to be reached on an H100 or H200."""

    name: str
    """Its key in the record of its stage."""
    stage: str
    what: str
    limit: float
    at_most: bool

    def state(self, found: float | None) -> str:
        """met, not met, or not run."""
        if found is None:
            return "not run"
        return (
            "met" if (found <= self.limit if self.at_most else found >= self.limit) else "not met"
        )


GOALS = (
    Goal(
        "evaluation",
        "evaluation-sd15",
        "ms an evaluation of Stable Diffusion 1.5, in calls of 16 and more, compiled "
        "(1.02 is the least that an H200's arithmetic takes)",
        2.2,
        at_most=True,
    ),
    Goal("iteration", "iteration", "times as fast as the naive loop", 3.0, at_most=False),
    Goal("memory-sd15", "memory-sd15", "% between memory and prediction", 15.0, at_most=True),
    Goal("memory-klein", "memory-klein", "% between memory and prediction", 15.0, at_most=True),
)


def page(results: Mapping[str, Any]) -> str:
    """The page of results in markdown."""
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine.items())
    given = f"--minutes {settings['minutes']:g} --device {settings['device']}"
    command = f"python -m benchmarks gpu --output DIR {given} --scale {settings['scale']}"
    parts = ["# Results on a GPU", f"`{command}`: {results['seconds']:.0f} s. {versions}."]
    if settings["scale"] != "full":
        parts.append("**Tiny models, to try the command: these figures mean nothing.**")
    parts += ["## Goals", _goals(results["stages"], is_full=settings["scale"] == "full")]
    parts += [_section(stage) for stage in results["stages"]]
    if results["told"]:
        parts += ["## Compilation", "\n".join(f"- {line}" for line in results["told"])]
    return "\n\n".join(parts) + "\n"


def _goals(stages: Sequence[Mapping[str, Any]], *, is_full: bool) -> str:
    found = {name: value for stage in stages for name, value in stage.get("goals", {}).items()}
    rows = []
    for goal in GOALS:
        value = found.get(goal.name) if is_full else None
        limit = f"{'at most' if goal.at_most else 'at least'} {goal.limit:g}"
        cells = {"goal": f"{goal.what} ({goal.stage})", "limit": limit}
        rows.append({**cells, "found": "" if value is None else value, "": goal.state(value)})
    return _table(rows)


def _section(stage: Mapping[str, Any]) -> str:
    head = f"## {stage['heading']}"
    if "error" in stage:
        return f"{head}\n\nFailed after {stage['seconds']:.0f} s: {stage['error']}"
    if "not_run" in stage:
        return f"{head}\n\nNot run: {stage['not_run']}"
    facts = [f"{name.replace('_', ' ')}: {_cell(stage[name])}" for name in stage.get("facts", ())]
    end = ", ".join([f"{stage['seconds']:.0f} s", *facts])
    return f"{head}\n\n{_table(stage['rows'])}\n\n{end}"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = [*rows[0]]
    lines = [heads, ["---"] * len(heads), *([_cell(row[head]) for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
