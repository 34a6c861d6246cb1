"""What the bundled priors know: the instructions of `tiny` and the objects of `tiny-text`.

A text is known if it says all that one of the wordings of an edit says, and nothing that no wording
of this edit says. Words that only make the sentence don't count. So "colour the sphere blue" is
known from "make the sphere blue" and "change the colour of the sphere to blue", and "turn it into a
van gogh painting" isn't known from "turn it into a sunset".

This module imports nothing heavy, since the command line needs it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from csd_nerf.synthetic import wordings
from csd_nerf.synthetic.palette import COLOURS, FLOORS, SHAPES, SKIES
from csd_nerf.synthetic.wordings import Wordings

Groups = Mapping[str, Mapping[str, Wordings]]
"""Wordings by kind and by the name of an edit."""

EXAMPLES = 3
"""Number of known texts that a notice names."""

_FILLERS = """
    a an the it its that this these one is be were if as at by for from in into of on to up with
    make turn change give show put let replace want i should would have look looks like please now
    and picture photo photograph image scene view another different new whole everything
"""
"""Words that don't say what is wanted."""


@lru_cache(maxsize=1)
def instructions() -> Groups:
    """The instructions of `tiny`: edits with one right result, and choices with several."""
    return {
        "look": wordings.LOOKS,
        "weather": wordings.WEATHER,
        "floor": {f"floor {name}": wordings.floor(name) for name in FLOORS},
        "sky": {f"sky {name}": wordings.sky(name) for name in SKIES},
        "recolour": {
            f"{shape} {colour}": wordings.recolouring(shape, colour)
            for shape in SHAPES
            for colour in COLOURS
        },
        "choice": wordings.CHOICES,
    }


@lru_cache(maxsize=1)
def objects() -> Groups:
    """The objects of `tiny-text`."""
    known = {}
    for shape in SHAPES:
        for colour in COLOURS:
            first, *others = wordings.captions(shape, colour)
            known[f"{colour} {shape}"] = Wordings((first, *others), unseen=first)
    return {"object": known}


def is_known(text: str, groups: Groups) -> bool:
    """Whether a text is a wording of something in `groups`, or says the same; see the module."""
    said = _content(text)
    for group in groups.values():
        for words in group.values():
            contents = _contents((*words.seen, words.unseen))
            if said <= frozenset().union(*contents) and any(said >= one for one in contents if one):
                return True
    plain = _plain(text)
    # Such as "make it look different", all of whose words are fillers.
    return any(plain == _plain(one) for one in _all_texts(groups))


def nearest(text: str, groups: Groups) -> list[str]:
    """The known texts that look most like a text, at most `EXAMPLES`.

    They are of different kinds or, if the prior knows one kind only, of different edits.
    """
    kinds = {
        one: kind if len(groups) > 1 else name
        for kind, group in groups.items()
        for name, words in group.items()
        for one in words.seen
    }
    by_kind: dict[str, str] = {}
    for match in difflib.get_close_matches(text.lower(), kinds, n=len(kinds), cutoff=0):
        by_kind.setdefault(kinds[match], match)
    return [*by_kind.values()][:EXAMPLES]


def notice_of_unknown(text: str, groups: Groups, *, listed_by: str) -> str | None:
    """One line for the user about a text that a bundled prior doesn't know; None for a known one.

    Args:
        text: The user's text.
        groups: What the prior knows.
        listed_by: The command that lists all of it.
    """
    if is_known(text, groups):
        return None
    examples = ", ".join(f'"{example}"' for example in nearest(text, groups))
    shown = " ".join(text.split())
    return (
        f'the bundled prior doesn\'t know "{shown}"; it knows, for example, {examples}; '
        f"{listed_by} lists all"
    )


def _all_texts(groups: Groups) -> Iterable[str]:
    for group in groups.values():
        for words in group.values():
            yield from (*words.seen, words.unseen)


def _plain(text: str) -> str:
    """The text in lower case without punctuation, with single spaces between words."""
    return " ".join(re.findall(r"[\w'-]+", text.lower()))


def _content(text: str) -> frozenset[str]:
    """The words of a text that say what is wanted."""
    return frozenset(_plain(text).split()) - {*_FILLERS.split()}


@lru_cache(maxsize=512)
def _contents(texts: tuple[str, ...]) -> tuple[frozenset[str], ...]:
    return tuple(_content(text) for text in texts)
