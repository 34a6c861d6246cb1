from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
from statistics import stdev

import numpy as np
import pytest
import torch
from chromium import Browser, open_page
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.user_study.answers import QUESTIONS, read_answers, shown_order, summarize
from benchmarks.user_study.page import read_example, write_study
from csd_nerf.media.frames import frame_writer

METHODS = ("Zebra-Method", "Yak-Method", "Xerus-Method")


def frames(folder, value, count=4):
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.full((32, 48, 3), value, np.uint8)
        pixels[8:16, 8 * index : 8 * index + 8] = 255
        Image.fromarray(pixels).save(folder / f"{index}.png")


@pytest.fixture
def study(tmp_path):
    """Two examples, one of films and one of pictures; the page."""
    for place, name in enumerate((*METHODS, "source")):
        frames(tmp_path / "film" / name, 40 * place)
        (tmp_path / "still").mkdir(exist_ok=True)
        pixels = np.full((32, 48, 3), 60 * place, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "still" / f"{name}.png")
    (tmp_path / "film" / "prompt.txt").write_text("make it </script> night\n")
    (tmp_path / "still" / "prompt.txt").write_text("make it gold")
    page = tmp_path / "study.html"
    write_study([tmp_path / "film", tmp_path / "still"], page, seed=5)
    return page


def payload(page):
    found = re.search(r'id="study">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found[1])


def key_of(page):
    return page.with_suffix(".key.json")


def answers(page, participant, seed, ranks):
    """A file as the page saves it; `ranks` gives each question's ranks by method."""
    key = json.loads(key_of(page).read_text())
    examples = []
    for index, example in enumerate(key["examples"]):
        names = example["results"]
        given = {q: {id: ranks[q][names[id]] for id in names} for q in QUESTIONS}
        order = shown_order(list(names), seed, index)
        examples.append({"id": example["id"], "order": order, "ranks": given})
    path = page.parent / f"answers_{participant}.json"
    whole = {"study": key["study"], "participant": participant, "seed": seed, "examples": examples}
    path.write_text(json.dumps(whole))
    return path


def same(*ranks):
    return {question: dict(zip(METHODS, ranks, strict=True)) for question in QUESTIONS}


def test_the_page_has_media_and_instructions_but_no_names(study):
    text = study.read_text()
    assert not [name for name in METHODS if name in text]
    shown = payload(study)
    assert [example["instruction"] for example in shown["examples"]] == [
        "make it </script> night",
        "make it gold",
    ]
    film, still = shown["examples"]
    assert all(uri.startswith("data:video/mp4;base64,") for uri in film["results"].values())
    assert all(uri.startswith("data:image/png;base64,") for uri in still["results"].values())
    assert not re.search(r"https?://", text)


def test_the_key_names_each_picture_by_its_content(study):
    import base64

    shown = payload(study)["examples"][1]["results"]
    for id, name in json.loads(key_of(study).read_text())["examples"][1]["results"].items():
        data = base64.b64decode(shown[id].split(",")[1])
        assert data == (study.parent / "still" / f"{name}.png").read_bytes()


def test_equal_inputs_and_seeds_give_equal_pages(study):
    folders = [study.parent / "film", study.parent / "still"]
    write_study(folders, study.parent / "again.html", seed=5)
    write_study(folders, study.parent / "other.html", seed=6)
    assert (study.parent / "again.html").read_text() == study.read_text()
    assert (study.parent / "other.html").read_text() != study.read_text()


def test_all_orders_are_equally_likely():
    numbers = random.Random(0)
    orders = [tuple(shown_order("abc", numbers.getrandbits(32), 0)) for _ in range(6000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    # Standard deviation 29 around 1000.
    assert min(counts) > 870
    assert max(counts) < 1130


def test_the_table_is_that_of_a_hand_computation(study):
    first = same(1, 2, 3) | {"quality": dict(zip(METHODS, (3, 2, 1), strict=True))}
    paths = [answers(study, "a", 7, first), answers(study, "b", 8, same(1, 3, 2))]
    text = summarize(paths, key_of(study), study.parent / "table.md", paper="video")
    assert text == (study.parent / "table.md").read_text()
    half = f"{stdev((2, 3)):.2f}"
    assert (
        f"| Zebra-Method | **1.00** ± 0.00 | **1.00** ± 0.00 | 2.00 ± {stdev((3, 1)):.2f} |" in text
    )
    assert f"| Yak-Method | 2.50 ± {half} | 2.50 ± {half} | 2.50 ± {half} |" in text
    assert "Participants: 2. Examples: 2." in text
    # W = 12 S / (m^2 (n^3 - n)) with rank sums 2, 5, 5: S = 6, so 12 * 6 / (4 * 24) = 0.75.
    assert "Temporal consistency: Kendall's W 0.75, Friedman test p = 0.223" in text
    assert "| CSD-Edit | 1.27 | 1.60 | 1.60 |" in text


def test_rows_hold_the_mean_over_examples(study):
    path = answers(study, "a", 7, same(1, 2, 3))
    value = json.loads(path.read_text())
    key = json.loads(key_of(study).read_text())
    ids = {name: id for id, name in key["examples"][1]["results"].items()}
    value["examples"][1]["ranks"]["quality"] = {
        ids["Zebra-Method"]: 2,
        ids["Yak-Method"]: 1,
        ids["Xerus-Method"]: 3,
    }
    path.write_text(json.dumps(value))
    rows = {row["arm"]: row["quality"] for row in read_answers([path], key_of(study))}
    assert rows == {"Zebra-Method": 1.5, "Yak-Method": 1.5, "Xerus-Method": 3}


def change(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def tie(value):
    ranks = value["examples"][0]["ranks"]["quality"]
    ranks.update(dict.fromkeys(ranks, 1))


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (tie, r"Each rank from 1 to 3 is given once, got \[1, 1, 1\] for the quality of film"),
        (lambda value: value["examples"][1]["ranks"]["fidelity"].popitem(), "given once"),
        (lambda value: value["examples"].pop(), "must be whole"),
        (lambda value: value["examples"][0].pop("ranks"), "must be whole"),
        (lambda value: value.update(study="other"), "must belong to the study"),
        (lambda value: value["examples"][0]["order"].reverse(), "must follow from the answers'"),
    ],
)
def test_answers_that_do_not_count_are_named(study, edit, text):
    path = answers(study, "a", 7, same(1, 2, 3))
    change(path, edit)
    with pytest.raises(ValueError, match=text) as caught:
        read_answers([path], key_of(study))
    assert str(path) in str(caught.value)


def test_damaged_and_repeated_files_are_named(study):
    path = answers(study, "a", 7, same(1, 2, 3))
    with pytest.raises(ValueError, match="counts once"):
        read_answers([path, path], key_of(study))
    path.write_text(path.read_text()[:50])
    with pytest.raises(
        ValueError, match="must be whole answers, as the page saves them, but can't be read"
    ):
        read_answers([path], key_of(study))


def test_examples_that_do_not_fit_are_named(study):
    folder = study.parent / "still"
    (folder / "Yak-Method.png").rename(folder / "Other.png")
    with pytest.raises(ValueError, match="All examples need the same methods"):
        write_study([study.parent / "film", folder], study)
    (folder / "prompt.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"got no .*prompt.txt"):
        read_example(folder)


def test_a_page_or_key_that_exists_is_kept(study):
    folders = [study.parent / "film", study.parent / "still"]
    page, key = study.read_bytes(), key_of(study).read_bytes()
    for gone in (None, study):
        if gone is not None:
            gone.unlink()
        with pytest.raises(FileExistsError, match=r"must be new ones, got .* pass --overwrite"):
            write_study(folders, study, seed=6)
        assert key_of(study).read_bytes() == key
    write_study(folders, study, seed=6, overwrite=True)
    assert key_of(study).read_bytes() != key
    assert study.read_bytes() != page


def test_the_command_takes_the_leave_to_overwrite(study, capsys):
    given = ["user-study", *(str(study.parent / name) for name in ("film", "still"))]
    given += ["--output", str(study)]
    with pytest.raises(SystemExit):
        main(given)
    assert "benchmarks: The page and its key must be new ones" in capsys.readouterr().err
    main([*given, "--overwrite"])


@pytest.mark.parametrize("place", ["still/Yak-Method.png", "film/source/2.png", "still/prompt.txt"])
def test_a_link_to_elsewhere_gets_into_no_page(study, place, tmp_path_factory):
    path = study.parent / place
    secret = path.rename(tmp_path_factory.mktemp("private") / path.name)
    path.symlink_to(secret)
    with pytest.raises(ValueError, match=r"must lie in its folder, got .*, a link to .*copy"):
        write_study([study.parent / "film", study.parent / "still"], study.parent / "new.html")
    assert not (study.parent / "new.html").exists()


def test_a_link_within_an_example_is_followed(study):
    still = study.parent / "still"
    (still / "Yak-Method.png").unlink()
    (still / "Yak-Method.png").symlink_to("source.png")
    write_study([study.parent / "film", still], study.parent / "new.html")


@pytest.mark.parametrize("place", ["still/Yak-Method.png", "film/source/2.png"])
def test_pipes_are_refused(study, place):
    path = study.parent / place
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"files and folders only, got .*, a pipe or a device"):
        write_study([study.parent / "film", study.parent / "still"], study.parent / "new.html")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("Yak-Method.png", b"my diary", "must be a picture that Pillow can read"),
        ("Yak-Method.png", None, "must be whole"),
        ("Yak-Method.mp4", b"my diary", "Yak-Method.mp4"),
        ("Yak-Method.png", "GIF", "must be PNG, JPEG or WebP, got .* which is GIF; convert it"),
        ("prompt.txt", b"\xff\xfe", "must be text in UTF-8"),
    ],
)
def test_what_is_no_picture_gets_into_no_page(study, name, content, told):
    still = study.parent / "still"
    old = still / "Yak-Method.png"
    whole = old.read_bytes()
    if name.startswith("Yak"):
        old.unlink()
    if content == "GIF":
        Image.new("RGB", (4, 4)).save(still / name, format="GIF")
    else:
        (still / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=told):
        write_study([study.parent / "film", still], study.parent / "new.html")
    assert not (study.parent / "new.html").exists()


def test_a_film_that_breaks_off_gets_into_no_page(study):
    film = study.parent / "film"
    with frame_writer(film / "whole.mp4", size=(32, 48)) as write:
        for index in range(12):
            write(torch.full((32, 48, 3), 20 * index, dtype=torch.uint8))
    whole = (film / "whole.mp4").read_bytes()
    (film / "whole.mp4").unlink()
    for name in METHODS:
        shutil.rmtree(film / name)
        (film / f"{name}.mp4").write_bytes(whole)
    write_study([film], study.parent / "new.html")
    (film / f"{METHODS[0]}.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=METHODS[0]):
        write_study([film], study.parent / "newer.html")


def test_a_picture_is_shown_as_what_it_is(study):
    still = study.parent / "still"
    Image.new("RGB", (4, 4)).save(still / "Yak-Method.png", format="JPEG")
    page = study.parent / "new.html"
    write_study([study.parent / "film", still], page)
    media = payload(page)["examples"][1]["results"].values()
    kinds = sorted(uri.partition(";")[0] for uri in media)
    assert kinds == ["data:image/jpeg", "data:image/png", "data:image/png"]


def test_a_mistake_at_the_command_ends_in_one_line(study, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["user-study", "--output", str(study), "--summarize", "answers.json"])
    assert caught.value.code == 1
    assert capsys.readouterr().err == (
        "benchmarks: --summarize needs --key and no examples' folders.\n"
    )


class Page(Browser):
    """The study's page."""

    def reload(self):
        self.js("window.old = true")
        self.send("Page.reload")
        self.until("!window.old && !!document.querySelector('#next')")

    def rank(self, question, row, rank):
        self.click(f"#{question} .row:nth-of-type({row}) label:nth-of-type({rank}) input")


@pytest.fixture
def browser(study, tmp_path):
    with open_page(study.as_uri(), tmp_path) as page:
        page.until("!!document.querySelector('#next')")
        yield Page(page.socket)


def take_part(page, folder, known=()):
    """Rank as the rows stand, by mouse, and download; returns the new file."""
    page.click("#next")
    for _ in range(2):
        for question in QUESTIONS:
            for row in range(1, 4):
                page.rank(question, row, row)
        page.click("#next")
    page.until("!!document.querySelector('#download')")
    page.click("#download")
    end = time.monotonic() + 20
    while not (new := set(folder.glob("answers_*.json")) - set(known)):
        assert time.monotonic() < end
        time.sleep(0.05)
    return new.pop()


def test_participants_use_the_page_in_a_browser(browser, study, tmp_path):
    # By keyboard: the button, then the first radio button; what is missing holds the page.
    browser.js("document.querySelector('#next').focus()")
    browser.press("Enter", 13, "\r")
    browser.until("document.querySelectorAll('video').length === 4")
    browser.until("[...document.querySelectorAll('video')].every(v => v.currentTime > 0)")
    browser.js("document.querySelector('#consistency input').focus()")
    browser.press(" ", 32, " ")
    assert browser.js("document.querySelector('#consistency input').checked")
    browser.click("#next")
    assert "Give every edit a rank" in browser.js("message.textContent")
    assert browser.js("state.step") == 0
    # A rank moves to the one that is given it last.
    browser.rank("consistency", 2, 1)
    assert browser.js("document.querySelectorAll('#consistency input:checked').length") == 1
    # Progress outlives the page.
    browser.reload()
    browser.until("document.querySelectorAll('#consistency input:checked').length === 1")
    browser.click("#back")

    paths = [take_part(browser, tmp_path)]
    for _ in range(3):
        browser.js("localStorage.clear()")
        browser.reload()
        browser.until("document.querySelector('#next')?.textContent === 'Start'")
        paths.append(take_part(browser, tmp_path, paths))
    orders = [json.loads(path.read_text())["examples"][0]["order"] for path in paths]
    seeds = [json.loads(path.read_text())["seed"] for path in paths]
    assert len(set(seeds)) == len(seeds), "by which the orders are drawn"
    # Reading them checks the orders by the second implementation of the shuffle.
    rows = read_answers(paths, key_of(study))
    assert len(rows) == 12
    place = orders[0]
    names = json.loads(key_of(study).read_text())["examples"][0]["results"]
    other = json.loads(paths[0].read_text())["examples"][1]["order"]
    others = json.loads(key_of(study).read_text())["examples"][1]["results"]
    ranks = {names[id]: rank for rank, id in enumerate(place, 1)}
    for rank, id in enumerate(other, 1):
        ranks[others[id]] = (ranks[others[id]] + rank) / 2
    assert {row["arm"]: row["quality"] for row in rows[:3]} == ranks
