"""The wordings of the known edits and choices.

The first wording of each is the standard one. Further wordings come from templates, so that a model
learns what a word means in many sentences. The unseen wording is never used in training: validation
and benchmark use it to measure how well other words are understood.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SYNONYMS = {
    "sphere": ("sphere", "ball"),
    "cube": ("cube", "box"),
    "cylinder": ("cylinder",),
    "cone": ("cone",),
}


@dataclass(frozen=True)
class Wordings:
    """The wordings of one edit or choice."""

    seen: tuple[str, ...]
    """Wordings for training, none twice; the first is the standard one."""
    unseen: str
    """A wording for validation and benchmark only."""


def recolouring(shape: str, colour: str) -> Wordings:
    """Wordings of giving an object a colour."""
    templates = (
        "make the {w} {colour}",
        "paint the {w} {colour}",
        "turn the {w} {colour}",
        "change the colour of the {w} to {colour}",
        "the {w} should be {colour}",
        "make the {w} look {colour}",
        "change the {w} to {colour}",
        "recolour the {w} {colour}",
        "dye the {w} {colour}",
        "a {colour} {w}",
        "make it a {colour} {w}",
        "give the {w} a {colour} coat",
        "turn the {w} into a {colour} one",
        "I want the {w} to be {colour}",
        "let the {w} be {colour}",
    )
    words = [t.format(w=word, colour=colour) for word in SYNONYMS[shape] for t in templates]
    return Wordings(tuple(words), f"colour the {shape} {colour}")


def floor(name: str) -> Wordings:
    """Wordings of giving a scene a floor."""
    templates = (
        "make the floor {name}",
        "turn the floor into {name}",
        "change the ground to {name}",
        "put it on {name}",
        "make the ground {name}",
        "change the floor to {name}",
        "turn the ground into {name}",
        "the floor should be {name}",
        "cover the floor with {name}",
        "cover the ground with {name}",
        "let it stand on {name}",
        "swap the floor for {name}",
        "make the floor look like {name}",
        "a floor of {name}",
        "give it a floor of {name}",
        "I want {name} on the floor",
    )
    return Wordings(tuple(t.format(name=name) for t in templates), f"replace the floor with {name}")


def sky(name: str) -> Wordings:
    """Wordings of giving a scene a sky."""
    templates = (
        "make the sky {name}",
        "turn the sky {name}",
        "change the sky to {name}",
        "paint the sky {name}",
        "the sky should be {name}",
        "colour the sky {name}",
        "turn the sky to {name}",
        "make the sky look {name}",
        "change the colour of the sky to {name}",
        "let the sky be {name}",
        "a {name} sky",
        "I want a {name} sky",
        "put a {name} sky above it",
        "swap the sky for a {name} one",
    )
    return Wordings(tuple(t.format(name=name) for t in templates), f"give it a {name} sky")


def _all_over(
    standard: Sequence[str],
    unseen: str,
    *,
    adjectives: Sequence[str] = (),
    nouns: Sequence[str] = (),
) -> Wordings:
    """Wordings of an edit of the whole picture, from words that name it.

    Args:
        standard: Wordings of its own; the first is the standard one.
        unseen: The unseen wording.
        adjectives: Words for the result, such as "foggy".
        nouns: Names of the result with their articles, such as "a foggy day".
    """
    of_adjectives = (
        "make it {}",
        "make it look {}",
        "turn it {}",
        "make everything {}",
        "make the picture {}",
        "make the whole scene {}",
        "it should be {}",
        "let it be {}",
        "I want it {}",
    )
    of_nouns = (
        "make it {}",
        "turn it into {}",
        "change it to {}",
        "make it look like {}",
        "turn the picture into {}",
        "change the scene to {}",
        "show it as {}",
        "it should be {}",
        "I want {}",
    )
    words = [
        *standard,
        *(t.format(a) for a in adjectives for t in of_adjectives),
        *(t.format(n) for n in nouns for t in of_nouns),
    ]
    return Wordings(tuple(word for word in dict.fromkeys(words) if word != unseen), unseen)


WEATHER = {
    "fog": _all_over(
        ("add fog", "make it foggy", "fill the scene with fog", "put it in fog", "let fog come up"),
        "make it a foggy day",
        adjectives=("foggy", "misty"),
        nouns=("fog", "a foggy scene", "a foggy morning", "a misty day"),
    ),
    "snow": _all_over(
        (
            "make it snow",
            "cover it with snow",
            "make it snowy",
            "turn it into winter",
            "add snow",
            "let it snow",
            "put snow on everything",
        ),
        "make it look like winter with snow",
        adjectives=("snowy", "wintry"),
        nouns=("winter", "a winter scene", "a snowy day", "a snowy scene"),
    ),
}
"""Wordings by weather."""

LOOKS = {
    "black and white": _all_over(
        (
            "make it black and white",
            "turn it into a black and white photo",
            "make it grayscale",
            "remove the colours",
            "turn it black and white",
            "take the colours away",
        ),
        "turn it into a black and white photograph",
        adjectives=("black and white", "grayscale", "monochrome"),
        nouns=("a black and white picture", "a grey picture"),
    ),
    "sepia": _all_over(
        (
            "make it sepia",
            "turn it into a sepia photo",
            "make it an old sepia photograph",
            "turn it into an old photograph",
            "give it a sepia tone",
            "tone it in sepia",
        ),
        "turn it into a sepia photograph",
        adjectives=("sepia", "old and brown"),
        nouns=("an old photo", "a sepia picture", "an old brown photograph"),
    ),
    "night": _all_over(
        (
            "make it night",
            "turn it into night",
            "change it to night time",
            "make it look like night",
            "turn day into night",
            "let night fall",
            "as it looks at night",
        ),
        "make it a night scene",
        adjectives=("nightly",),
        nouns=("night", "night time", "midnight", "a dark night", "a picture at night"),
    ),
    "sunset": _all_over(
        (
            "make it sunset",
            "turn it into a sunset",
            "change it to sunset light",
            "put it in the evening sun",
            "make it look like sunset",
            "let the sun go down",
            "light it by the evening sun",
        ),
        "make it a sunset scene",
        nouns=("sunset", "a sunset", "evening", "an evening scene", "a warm evening"),
    ),
    "negative": _all_over(
        (
            "invert the colours",
            "make it a negative",
            "turn it into a photographic negative",
            "invert it",
            "turn it into a negative",
            "invert the picture",
            "swap dark and light",
        ),
        "make it look like a negative",
        adjectives=("inverted",),
        nouns=("a negative", "a photographic negative", "a film negative"),
    ),
    "vivid": _all_over(
        (
            "make it vivid",
            "make the colours vivid",
            "make it more colourful",
            "saturate the colours",
            "make it colourful",
            "make the colours stronger",
            "add colour",
        ),
        "give it vivid colours",
        adjectives=("vivid", "colourful", "more saturated"),
        nouns=("a vivid picture", "a colourful picture"),
    ),
    "faded": _all_over(
        (
            "make it faded",
            "fade the colours",
            "make it pale",
            "turn it into a faded photo",
            "wash out the colours",
            "make the colours weaker",
        ),
        "give it pale faded colours",
        adjectives=("faded", "pale", "washed out"),
        nouns=("a faded photo", "a pale picture"),
    ),
    "brighter": _all_over(
        (
            "make it brighter",
            "brighten it",
            "make it bright",
            "add more light",
            "lighten the image",
            "brighten the scene",
            "turn up the light",
        ),
        "make the image brighter",
        adjectives=("brighter", "bright", "lighter"),
        nouns=("a brighter picture", "a bright scene"),
    ),
    "darker": _all_over(
        (
            "make it darker",
            "darken it",
            "make it dark",
            "remove light",
            "darken the image",
            "darken the scene",
            "turn down the light",
        ),
        "make the image darker",
        adjectives=("darker", "dark", "dim"),
        nouns=("a darker picture", "a dark scene"),
    ),
    "blueprint": _all_over(
        (
            "make it a blueprint",
            "turn it into a blueprint",
            "turn it into a cyanotype",
            "make it look like a blueprint",
            "print it as a cyanotype",
            "print it in blue",
        ),
        "make it a cyanotype blueprint",
        nouns=("a blueprint", "a cyanotype", "a blue print"),
    ),
    "infrared": _all_over(
        (
            "make it an infrared image",
            "turn it into a thermal image",
            "show it in infrared",
            "make it look like a thermal camera",
            "turn it into infrared",
            "see it through a thermal camera",
        ),
        "make it a thermal infrared picture",
        adjectives=("infrared", "thermal"),
        nouns=("an infrared image", "a thermal image", "an infrared photo"),
    ),
    "sketch": _all_over(
        (
            "make it a sketch",
            "turn it into a pencil drawing",
            "draw it with a pencil",
            "turn it into a sketch",
            "make it a pencil sketch",
            "sketch it",
            "draw it",
        ),
        "make it look like a pencil sketch",
        adjectives=("sketched", "drawn"),
        nouns=("a sketch", "a pencil drawing", "a drawing", "a line drawing"),
    ),
}
"""Wordings by look."""


def another(thing: str, *, own: Iterable[str] = ()) -> Wordings:
    """Wordings of changing something without saying into what.

    Args:
        thing: What is changed, such as "floor".
        own: Wordings of this choice alone; the first is the standard one.
    """
    templates = (
        "change the {}",
        "give it another {}",
        "give it a different {}",
        "make the {} different",
        "a different {}",
        "another {}",
        "I want another {}",
        "let it have another {}",
        "swap the {}",
        "replace the {}",
    )
    words = dict.fromkeys([*own, *(t.format(thing) for t in templates)])
    return Wordings(tuple(words), f"give it a new {thing}")


def another_colour(shape: str) -> Wordings:
    """Wordings of painting an object without naming the colour."""
    templates = (
        "paint the {}",
        "change the colour of the {}",
        "give the {} another colour",
        "give the {} a different colour",
        "make the {} a different colour",
        "turn the {} another colour",
        "recolour the {}",
        "dye the {}",
        "the {} should have another colour",
        "I want another colour on the {}",
    )
    words = [t.format(word) for word in SYNONYMS[shape] for t in templates]
    return Wordings(tuple(words), f"paint the {shape} in a new colour")


CHOICES = {
    **{f"paint {shape}": another_colour(shape) for shape in SYNONYMS},
    "change floor": another("floor", own=("change the floor", "change the ground")),
    "change sky": another("sky", own=("change the sky",)),
    "change look": another("look", own=("give it another look", "change the colours")),
}
"""Wordings by choice."""


def captions(shape: str, colour: str) -> list[str]:
    """All captions of a single object, on which the bundled text-to-image prior was trained."""
    templates = ("a {}", "a photo of a {}")
    return [t.format(f"{colour} {word}") for t in templates for word in SYNONYMS[shape]]
