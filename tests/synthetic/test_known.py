"""What counts as known to the bundled priors."""

from __future__ import annotations

import pytest

from csd_nerf.bundled import keeps_detail, notices_of_unknown
from csd_nerf.synthetic import known
from csd_nerf.synthetic.choices import all_choices
from csd_nerf.synthetic.edits import all_edits
from csd_nerf.synthetic.wordings import Wordings

EVERYTHING = {**all_edits(), **all_choices()}


def test_all_edits_and_choices_are_listed_with_all_of_their_wordings():
    listed = known.instructions()
    for kind, group in listed.items():
        for name, words in group.items():
            asked = EVERYTHING[name]
            assert kind == ("choice" if name in all_choices() else asked.kind)
            assert words.seen == asked.instructions
            assert words.unseen == asked.unseen_instruction
    assert [name for group in listed.values() for name in group] != []
    assert {name for group in listed.values() for name in group} == {*EVERYTHING}


@pytest.fixture(scope="module")
def without_unseen() -> known.Groups:
    return {
        kind: {name: Wordings(words.seen, words.seen[0]) for name, words in group.items()}
        for kind, group in known.instructions().items()
    }


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_training_used_is_known_and_so_are_words_that_it_did_not_use(name, without_unseen):
    asked = EVERYTHING[name]
    for text in asked.instructions:
        assert known.is_known(text, without_unseen), text
    # "give it a new look" has no word but those of many sentences: it is known verbatim only.
    expected = name != "change look"
    assert known.is_known(asked.unseen_instruction, without_unseen) == expected
    assert known.is_known(asked.unseen_instruction, known.instructions())


@pytest.mark.parametrize(
    "text",
    [
        "Make it SNOW!",
        "  make the sphere\n blue. ",
        "Please, colour the ball in turquoise",
        "as if it were night",
        "make it look old",
        "Paint the cube.",
    ],
)
def test_spelling_and_small_words_do_not_matter(text):
    assert known.is_known(text, known.instructions())


@pytest.mark.parametrize(
    "text",
    [
        "turn it into a van gogh painting",
        "make it a watercolor",
        "give him a moustache",
        "turn the bear into a panda",
        "make it an oil painting",
        "make the dog red",
        # The words are known, but not together.
        "make the sky wood",
        "turn the floor blue",
        "make it blue",
        "make it night and add snow",
        "make it",
        "red",
    ],
)
def test_what_no_edit_means_is_unknown(text):
    assert not known.is_known(text, known.instructions())


def test_a_notice_is_one_line_with_known_texts_of_different_kinds():
    (notice,) = notices_of_unknown("tiny", ["turn it into\na van gogh painting"])
    assert notice.startswith(
        'the bundled prior doesn\'t know "turn it into a van gogh painting"; it knows, '
    )
    assert notice.endswith("; csd-nerf edits lists all")
    examples = notice.split('"')[3::2]
    assert len(examples) == 3
    assert all(known.is_known(example, known.instructions()) for example in examples)
    kinds = {
        kind
        for kind, group in known.instructions().items()
        for words in group.values()
        if {*words.seen} & {*examples}
    }
    assert len(kinds) == 3


def test_each_unknown_prompt_has_its_notice_and_only_those_of_bundled_priors():
    prompts = ["make it snow", "make it a cat", "", "make it a dog", "make it a cat", "  "]
    told = notices_of_unknown("tiny", prompts)
    assert [line.split('"')[1] for line in told] == ["make it a cat", "make it a dog"]
    assert notices_of_unknown("instruct-pix2pix", prompts) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red cube", True),
        ("A photo of a turquoise ball.", True),
        ("a red dog", False),
        ("a red cube on a table", False),
        ("a cat", False),
        ("make it snow", False),
    ],
)
def test_the_text_to_image_prior_knows_objects(text, expected):
    told = notices_of_unknown("tiny-text", [text])
    assert (told == []) == expected
    if not expected:
        assert all(known.is_known(example, known.objects()) for example in told[0].split('"')[3::2])


@pytest.mark.parametrize(
    ("prior", "prompts", "kept"),
    [
        ("tiny", ["make it night"], True),
        ("tiny", ["as if it were night", "", "a sepia photograph"], True),
        ("tiny", ["make it night", "make it snow"], False),
        ("tiny", ["make the sphere blue"], False),
        ("tiny", ["turn him into a clown"], False),
        ("tiny", ["", " "], False),
        ("instruct-pix2pix", ["make it night"], False),
    ],
)
def test_only_looks_of_the_bundled_prior_keep_detail_by_themselves(prior, prompts, kept):
    assert keeps_detail(prior, prompts) == kept
