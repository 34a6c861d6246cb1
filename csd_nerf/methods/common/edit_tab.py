"""The elements of the viewer's Edit tab, in the order of work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from viser import GuiApi, Icon

from csd_nerf.methods.common.gui_elements import Element
from csd_nerf.scene.controls import EditRequest

SHOWN = {"after the edit": "rgb", "before the edit": "unedited", "both, side by side": None}
"""What the scene shows, by the words of its choice: an output of the model, or None for both."""
ON_PHOTOGRAPHS, ON_TOP = "the photographs", "what the scene shows"
"""What a new prompt edits."""

MOST = {"text_scale": 30.0, "image_scale": 10.0, "iterations": 2000, "seed": 999_999}
"""Upper bounds of numbers. An option above it is its own bound."""
LEAST = {"text_scale": 0.0, "image_scale": 0.0, "iterations": 1, "seed": 0}


@dataclass(frozen=True)
class Numbers:
    """What the options say and a request may leave open.

    Attributes:
        views: Views of a round.
        most_views: Views of the scene.
        seed: Seed of the rounds.
    """

    views: int = 16
    most_views: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class EditTab:
    """All elements; those that are not inputs of the user only show something."""

    prompt: Element
    notice: Element
    negative_prompt: Element
    region: Element
    region_notice: Element
    box: Element
    numbers: dict[str, Element]
    source: Element
    preview_button: Element
    edit_button: Element
    paused: Element
    status: Element
    bar: Element
    shown: Element
    preview: Element
    preview_folder: Element
    last_round: Element
    sheet_button: Element
    round_folder: Element
    history_note: Element
    history: Element
    undo_button: Element
    reset_button: Element
    save_button: Element


def add_edit_tab(gui: GuiApi, request: EditRequest, numbers: Numbers) -> EditTab:
    """Add the elements to the container that is open.

    Args:
        gui: viser's.
        request: What the inputs show first.
        numbers: The rest of it.
    """
    parts: dict[str, Any] = {
        "prompt": gui.add_text("Prompt", request.prompt, hint="What to do: make it snow"),
        "notice": gui.add_markdown("", visible=False),
        "negative_prompt": gui.add_text(
            "Avoid", request.negative_prompt, hint="What the result should not show; may be empty"
        ),
        "region": gui.add_text(
            "Region",
            request.region,
            hint="Where to edit; empty: everywhere. A box x0,y0,z0,x1,y1,z1, a word such as the "
            "car, or a folder of masks",
        ),
        "region_notice": gui.add_markdown("", visible=False),
        "box": gui.add_checkbox(
            "Region box", False, hint="Draw the region as a box with handles in the scene"
        ),
    }
    with gui.add_folder("Settings", expand_by_default=False):
        values = _add_numbers(gui, request, numbers)
    parts |= {
        "source": gui.add_dropdown(
            "Start from",
            (ON_PHOTOGRAPHS, ON_TOP),
            initial_value=ON_TOP if request.chain else ON_PHOTOGRAPHS,
            visible=False,
            hint="What the new prompt edits: the photographs anew, or what earlier edits made",
        ),
        "preview_button": gui.add_button(
            "Preview this view", icon=Icon.EYE, color="gray", hint="Edit what you see, alone"
        ),
        "edit_button": gui.add_button("Edit now", icon=Icon.WAND, hint="Edit the scene's views"),
        "status": gui.add_markdown(""),
        "bar": gui.add_progress_bar(0.0, visible=False),
    }
    parts["preview_folder"] = folder = gui.add_folder("Preview", visible=False)
    with folder:
        parts["preview"] = gui.add_markdown("")
    parts |= {
        "paused": gui.add_checkbox(
            "Pause editing", request.paused, hint="Rounds that are due wait; training goes on"
        ),
        "shown": gui.add_dropdown(
            "Show", tuple(SHOWN), disabled=True, hint="The scene before or after the edit"
        ),
    }
    parts["round_folder"] = folder = gui.add_folder("Last round", visible=False)
    with folder:
        parts["last_round"] = gui.add_markdown("")
        parts["sheet_button"] = gui.add_button("Show all views", color="gray")
    with gui.add_folder("History", expand_by_default=False):
        parts |= {
            "history_note": gui.add_markdown(""),
            "history": gui.add_dropdown("Round", ("-",), visible=False),
            "undo_button": gui.add_button(
                "Undo to this",
                icon=Icon.ARROW_BACK_UP,
                color="gray",
                hint="Make the scene what it was at the end of that round",
            ),
            "reset_button": gui.add_button(
                "Reset",
                icon=Icon.TRASH,
                color="gray",
                hint="Make the scene what it was before all edits",
            ),
        }
    parts["save_button"] = gui.add_button("Save", icon=Icon.DEVICE_FLOPPY, color="gray")
    shown = {name: Element(part) for name, part in parts.items()}
    return EditTab(numbers=values, **shown)


def _add_numbers(gui: GuiApi, request: EditRequest, numbers: Numbers) -> dict[str, Element]:
    settings = request.settings
    values: dict[str, tuple[str, Any, float]] = {
        "text_scale": ("Text scale", float(settings.text_scale), 0.25),
        "image_scale": ("Image scale", float(settings.image_scale), 0.05),
        "views": ("Views", request.views or numbers.views, 1),
        "iterations": ("Iterations", settings.iterations, 1),
        "seed": ("Seed", numbers.seed if request.seed is None else request.seed, 1),
    }
    hints = {
        "text_scale": "How strongly the prompt is followed",
        "image_scale": "How closely the photographs are kept",
        "views": "Views that a round edits",
        "iterations": "Steps of a round",
        "seed": "Another seed gives another result",
    }
    found = {}
    for name, (label, value, step) in values.items():
        least, most = bounds(name, value, numbers)
        found[name] = Element(
            gui.add_number(label, value, min=least, max=most, step=step, hint=hints[name])
        )
    return found


def bounds(name: str, initial: float | int, numbers: Numbers) -> tuple[Any, Any]:
    """The least and the largest value of a number, which the initial one widens."""
    least, most = (1, numbers.most_views) if name == "views" else (LEAST[name], MOST[name])
    return min(least, initial), max(most, initial)
