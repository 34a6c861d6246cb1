"""What `python -m benchmarks truth DOMAIN --tune` tries for each arm: a table, no code.

An arm is searched stage by stage. A stage tries all combinations of its values, with the other
options at the best values so far; the first stage begins at `start`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.truth.choice_arms import OPTIMISED, SAMPLED
from benchmarks.truth.domains import Arm
from csd_nerf.bundled import TUNED, TUNED_PANORAMA, TUNED_SDS

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """The search for an arm's options; any option of the arm's method can be named."""

    start: Options
    """Values at which the search begins. An arm that was never tuned uses them as they are."""
    stages: tuple[Mapping[str, tuple[Any, ...]], ...]
    """The values to try, by option, in ascending order."""

    def without(self, names: Collection[str]) -> Grid:
        """The same search without some options, such as those that an arm sets itself."""
        stages = ({k: v for k, v in stage.items() if k not in names} for stage in self.stages)
        start = {key: value for key, value in self.start.items() if key not in names}
        return Grid(start, tuple(stage for stage in stages if stage))


@dataclass(frozen=True)
class DomainGrids:
    """The searches of a domain."""

    methods: Mapping[str, Grid]
    """By method: the search of all its arms that are not in `arms`."""
    arms: Mapping[str, Grid] = field(default_factory=dict)
    """By the arm's name."""


def candidates(stage: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """All combinations of a stage's values."""
    for values in itertools.product(*stage.values()):
        yield dict(zip(stage, values, strict=True))


def grid_of(domain: str, arm: Arm) -> Grid:
    """An arm's search, without the options that define the arm."""
    grids = GRIDS[domain]
    assert arm.method is not None, "References have no options."
    return grids.arms.get(arm.name, grids.methods[arm.method]).without(arm.options)


_RATES = (0.5, 1.0, 2.0, 4.0, 8.0)
_LOW_RATES = (0.125, 0.25, 0.5, 1.0)
_TIMESTEPS = {
    "t_range": ((0.02, 0.5), (0.02, 0.8), (0.02, 0.95)),
    "t_order": ("falling", "falling-first", "random"),
}
_OPTIMISED = {key: TUNED[key] for key in ("text_scale", "image_scale", "t_range")}
_GUIDANCE = {"text_scale": (1.0, 1.5, 2.0, 3.0), "image_scale": (1.0, 1.5, 2.0)}
_SHARES = {"source_share": (0.25, 0.5, 0.75)}
_SAMPLED = Grid({"text_scale": 2.0, "image_scale": 1.5}, (_GUIDANCE,))


def _optimised(rate: float) -> Grid:
    """Range and order of the timesteps together, then the rate, then the text scale."""
    return Grid(
        {**_OPTIMISED, "t_order": "random", "learning_rate": rate},
        (_TIMESTEPS, {"learning_rate": _RATES}, {"text_scale": (1.0, 1.25, 1.5, 2.0)}),
    )


def _with_share(grid: Grid) -> Grid:
    """The same with the share of the source's estimate, which is 1 in csd and 0 in sds."""
    return Grid({**grid.start, "source_share": 0.5}, (*grid.stages, _SHARES))


def _ablations(tuned: Options) -> dict[str, Grid]:
    """The searches of the ablations, which differ from csd in one setting.

    They have csd's timesteps, and are judged at the rate and the text scale that suit them.
    """
    start = {key: tuned[key] for key in (*_OPTIMISED, "t_order", "learning_rate")}

    def grid(rates: tuple[float, ...] = _RATES, **differ: Any) -> Grid:
        scales = {"text_scale": (1.0, 1.25, 1.5)}
        return Grid({**start, **differ}, ({"learning_rate": rates}, scales))

    return {
        "csd-independent-noise": grid(),
        "csd-no-stein-independent-noise": grid(),
        "sds-independent-noise": grid(**TUNED_SDS),
        "csd-clean-kernel": grid(),
        # Division by n instead of the row sum makes steps shorter by the ratio of the two, 0.2 to
        # 0.4 for these batches.
        "csd-divided-by-n": grid((2.0, 5.0, 10.0, 20.0)),
        "csd-full-repulsion": grid(),
        "csd-paper-t": grid(),
        # Guidance at the scale for which InstructPix2Pix was trained wants smaller steps.
        **dict.fromkeys(("csd-strong", "csd-no-stein-strong", "sds-strong"), grid(_LOW_RATES)),
    }


# Scenes, whose runs take minutes, take what was tuned on videos; see `tuned.SHARED`. Only the
# update that no video has is searched, one option at a time.
_SCENE = Grid(TUNED, ())
_IN2N = Grid(
    _SAMPLED.start, ({"text_scale": (1.0, 1.5, 2.0, 3.0)}, {"image_scale": (1.0, 1.5, 2.0)})
)

_CHOICE_GRID = Grid(
    {key: OPTIMISED[key] for key in ("learning_rate", "text_scale", "t_range", "t_order")},
    (
        {"learning_rate": (1.0, 2.0, 4.0, 8.0), "text_scale": (1.0, 1.5, 3.0, 5.0)},
        {"t_range": ((0.02, 0.8), (0.02, 0.95), (0.02, 0.98))},
        {"t_order": ("falling", "random")},
    ),
)

# In the same way scenes with choices take what was tuned on sets of images.
_CHOICE_SCENE = Grid(OPTIMISED, ())

_OF_SCENES = DomainGrids(
    {
        "csd": _SCENE,
        "csd-no-stein": _SCENE,
        "sds": _SCENE,
        "ip2p": Grid(_SAMPLED.start, ()),
        "in2n": _IN2N,
    },
)

# The order of the timesteps decides which range and rate are best.
_COST = Grid(
    {**_OPTIMISED, "learning_rate": 2.0},
    ({"t_range": ((0.02, 0.5), (0.02, 0.8), (0.02, 0.95))}, {"learning_rate": _RATES}),
)

# Levels of a flow; the bundled prior knows those up to 0.936. Of other options its edits of videos
# want the same with any residual.
_FLOW_NOISE = Grid(
    {
        "t_range": (0.02, 0.8),
        "t_order": "falling-first",
        "learning_rate": 2.0,
        "text_scale": 1.0,
    },
    ({"t_range": ((0.02, 0.6), (0.02, 0.8), (0.02, 0.92))}, {"learning_rate": (1.0, 2.0, 4.0)}),
)
_FLOW_VELOCITY = Grid(
    {"t_range": (0.02, 0.92), "shift": 1.0, "learning_rate": 1.0, "text_scale": 1.0},
    (
        {"t_range": ((0.02, 0.8), (0.02, 0.92)), "shift": (0.75, 1.0)},
        {"learning_rate": (0.9, 1.0, 1.1, 1.2, 1.3)},
    ),
)

GRIDS: dict[str, DomainGrids] = {
    "video": DomainGrids(
        {
            "csd": _optimised(2.0),
            "csd-no-stein": _optimised(2.0),
            "sds": _optimised(1.0),
            "ip2p": _SAMPLED,
        },
        {
            **dict.fromkeys(
                ("csd-share", "csd-patch-own-noise-share"), _with_share(_optimised(2.0))
            ),
            **_ablations(TUNED),
        },
    ),
    "cost-video": DomainGrids({"csd": _COST}),
    "flow-video": DomainGrids(
        {"csd": _FLOW_NOISE, "sds": _FLOW_NOISE},
        {
            "noise-share": _with_share(_FLOW_NOISE),
            "velocity": _FLOW_VELOCITY,
            "velocity-no-shift": _FLOW_VELOCITY,
            "velocity-share": _with_share(_FLOW_VELOCITY),
        },
    ),
    "panorama": DomainGrids(
        {
            "csd": _optimised(2.0),
            "csd-no-stein": _optimised(1.5),
            "sds": _optimised(1.5),
            "ip2p-downsize": _SAMPLED,
            "ip2p-windows": _SAMPLED,
        },
        {
            **dict.fromkeys(
                ("csd-share", "csd-patch-own-noise-share"), _with_share(_optimised(2.0))
            ),
            **_ablations({**TUNED, **TUNED_PANORAMA}),
        },
    ),
    "scene": _OF_SCENES,
    "splat-scene": _OF_SCENES,
    "choice": DomainGrids(
        {
            "edit": _CHOICE_GRID,
            "ip2p": Grid(
                {key: SAMPLED[key] for key in ("text_scale", "image_scale")},
                (
                    {
                        "text_scale": (1.0, 1.5, 2.0, 3.0, 5.0),
                        "image_scale": (1.0, 1.5, 2.0, 3.0),
                    },
                ),
            ),
        },
        {"patch-share-own-noise": _with_share(_CHOICE_GRID)},
    ),
    "choice-scene": DomainGrids(
        {
            "csd": _CHOICE_SCENE,
            "csd-no-stein": _CHOICE_SCENE,
            "sds": _CHOICE_SCENE,
            "ip2p": Grid(_SAMPLED.start, ()),
            "in2n": Grid(_SAMPLED.start, ()),
        },
    ),
}
"""The searches by domain."""
