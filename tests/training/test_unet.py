from __future__ import annotations

import random

import pytest
from transformers import CLIPTokenizer

from csd_nerf.synthetic.choices import all_choices
from csd_nerf.synthetic.edits import all_edits
from training import data, unet


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return unet.build_tokenizer(data.captions())


ASKED = {**all_edits(), **all_choices()}


def every_wording() -> list[str]:
    return [text for a in ASKED.values() for text in (*a.instructions, a.unseen_instruction)]


def test_captions_are_the_training_wordings_and_no_other():
    unseen = {asked.unseen_instruction for asked in ASKED.values()}
    captions = [*data.captions()]
    assert len(captions) == sum(len(asked.instructions) for asked in ASKED.values())
    assert not unseen & {*captions}


def test_every_wording_fits_and_comes_back(tokenizer):
    for text in every_wording():
        tokens = tokenizer(text).input_ids
        assert len(tokens) <= unet.MAX_TOKENS
        assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == text.lower()


def test_words_that_nobody_thought_of_are_spelt(tokenizer):
    tokens = tokenizer("Zebra, Größe: 7!").input_ids
    assert tokenizer.unk_token_id not in tokens[1:-1]
    assert tokenizer.decode(tokens, skip_special_tokens=True).replace(" ", "") == "zebra,größe:7!"


def test_the_tokenizer_survives_its_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    texts = every_wording()
    assert again(texts).input_ids == tokenizer(texts).input_ids
    assert len(again) == len(tokenizer) <= 850 + 256


def test_the_words_of_a_pair_are_those_of_its_edit_or_choice(tokenizer):
    wordings = unet.Wordings(tokenizer)
    choose = random.Random(0)
    for name, asked in ASKED.items():
        rows = wordings.draw([name] * 40, choose)
        drawn = {tokenizer.decode(wordings.tokens[r], skip_special_tokens=True) for r in rows}
        assert {text.strip() for text in drawn} <= {text.lower() for text in asked.instructions}
        assert len(drawn) > 1
    empty = tokenizer.decode(wordings.tokens[0], skip_special_tokens=True)
    assert empty.strip() == ""
