"""The page of a preview in a browser: what is shown where, clicks and arrow keys."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from csd_nerf.methods.preview.record import PreviewRecord

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")

PROMPTS = ("make it night", 'say "<b>hi</b>"')
SCALES = ((1.0, 1.2), (5.0, 1.2), (5.0, 1.5))


def record_of(folder: Path, *, missing: int = 0) -> PreviewRecord:
    """Two prompts, three pairs of scales, two seeds, two views; the last cells are missing."""
    (folder / "cells").mkdir(parents=True)
    Image.new("RGB", (8, 12)).save(folder / "cells/source.png")
    views = [
        {"name": f"images/{n}.jpg", "picture": "cells/source.png", "size": [8, 12]} for n in "ab"
    ]
    facts = {"method": "csd-edit", "prior": "p", "data": ["my data"], "views": views}
    record = PreviewRecord(folder, {**facts, "notices": ["told"], "cameras": True})
    for seed in (0, 1):
        for place, prompt in enumerate(PROMPTS):
            for text, image in SCALES:
                name = f"{seed}-{place}-{text:g}-{image:g}"
                cell = {"prompt": prompt, "text_scale": text, "image_scale": image, "seed": seed}
                pictures = [f"cells/{name}-{view}.png" for view in range(2)]
                for picture in pictures:
                    Image.new("RGB", (8, 12), "red").save(folder / picture)
                cell |= {"command": f"ns-train {name}", "pictures": pictures}
                record.cells.append({**cell, "changes": [0.01, 0.02]})
    del record.cells[len(record.cells) - missing :]
    return record


def seen(page: Path, *, script: str = "", at: str = "") -> str:
    """The page's content after a script of the test ran in it, in a scope of its own."""
    shown = page.with_name("shown.html")
    shown.write_text(page.read_text().replace("</body>", f"<script>{{{script}}}</script></body>"))
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    # In a folder of its own: other browsers of this machine must not be disturbed.
    own = f"--user-data-dir={page.parent / 'browser'}"
    call = [str(BROWSER), *words, own, "--dump-dom", f"file://{shown}{at}"]
    return subprocess.run(call, capture_output=True, text=True, timeout=120, check=True).stdout


def told(dom: str) -> Any:
    """What the script wrote to the title."""
    (found,) = re.findall(r"<title>(.*?)</title>", dom)
    return json.loads(found.replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">"))


@needs_browser
def test_every_cell_is_in_its_place(tmp_path):
    record_of(tmp_path, missing=1).write("running", total=12, seconds=90.0, seconds_left=61.0)
    script = """
    const rows = [...document.querySelectorAll("tbody tr")].map((row) => [
      row.closest(".scroll").previousSibling.textContent,
      row.querySelector("th").innerText.replace("\\n", " "),
      ...[...row.querySelectorAll("td img")].map((image) => image.getAttribute("src")),
    ]);
    const flat = (element) => element.innerText.trim().split(/\\s+/).join(" ");
    const heads = [...document.querySelectorAll("thead")].map(flat);
    const text = flat(document.querySelector("main")).slice(0, 200);
    document.title = JSON.stringify({ rows, heads, text });
    """
    found = told(seen(tmp_path / "preview.html", script=script))
    assert found["heads"] == ["source text 1 image 1.2 text 5 image 1.2 text 5 image 1.5"] * 2
    assert "11 of 12 cells in 2 min, about 61 s left (running)." in found["text"]
    rows = iter(found["rows"])
    for place, prompt in enumerate(PROMPTS):
        for seed in (0, 1):
            for view, name in enumerate("ab"):
                pictures = [f"cells/{seed}-{place}-{t:g}-{i:g}-{view}.png" for t, i in SCALES]
                if (place, seed) == (1, 1):
                    del pictures[2]
                label = f"seed {seed} {name}.jpg"
                assert next(rows) == [prompt, label, "cells/source.png", *pictures]
    assert not list(rows)


@needs_browser
def test_a_click_shows_a_cell_large_and_keys_move(tmp_path):
    record_of(tmp_path, missing=1).write("finished", total=12, seconds=90.0, seconds_left=None)
    script = """
    const dialog = document.querySelector("dialog");
    const steps = [];
    const look = () => steps.push([
      dialog.open,
      ...[...dialog.querySelectorAll("img")].map((image) => image.getAttribute("src")),
      ...[...dialog.querySelectorAll("h2, pre")].map((element) => element.textContent),
    ]);
    const press = (key) => {
      const how = { key, bubbles: true, cancelable: true };
      document.activeElement.dispatchEvent(new KeyboardEvent("keydown", how));
    };
    document.querySelectorAll("button.picture")[1].click();
    look();
    for (const where of ["Right", "Right", "Down", "Down", "Up", "Left"]) {
      press(`Arrow${where}`);
      look();
    }
    dialog.querySelector("header button").click();
    setTimeout(() => {
      const focused = document.activeElement.querySelector("img").getAttribute("src");
      press("ArrowDown");
      const next = document.activeElement.querySelector("img").getAttribute("src");
      document.title = JSON.stringify({ steps, focused, next, open: dialog.open });
    }, 300);
    """
    found = told(seen(tmp_path / "preview.html", script=script))

    def at(seed: int, place: int, scales: int, view: int) -> list[Any]:
        name = "{}-{}-{:g}-{:g}".format(seed, place, *SCALES[scales])
        pictures = ["cells/source.png", f"cells/{name}-{view}.png"]
        return [True, *pictures, PROMPTS[place], f"ns-train {name}"]

    assert found["steps"] == [
        at(0, 0, 1, 0),
        at(0, 0, 2, 0),
        at(0, 0, 2, 0),  # The last column.
        at(0, 0, 2, 1),
        at(1, 0, 2, 0),  # Below the views of a seed are those of the next.
        at(0, 0, 2, 1),
        at(0, 0, 1, 1),
    ]
    assert (found["open"], found["focused"]) == (False, at(0, 0, 1, 1)[2])
    assert found["next"] == at(1, 0, 1, 0)[2]


@needs_browser
def test_a_cell_stays_open_when_the_page_refreshes_itself(tmp_path):
    record_of(tmp_path, missing=3).write("running", total=12, seconds=9.0, seconds_left=4.0)
    script = """
    const dialog = document.querySelector("dialog");
    document.title = JSON.stringify([dialog.open, dialog.querySelector("pre").textContent]);
    """
    dom = seen(tmp_path / "preview.html", script=script, at="#cell=3,2")
    assert told(dom) == [True, "ns-train 1-0-5-1.5"]
    # A place without a cell opens nothing.
    script = 'document.title = JSON.stringify(document.querySelector("dialog").open);'
    assert told(seen(tmp_path / "preview.html", script=script, at="#cell=7,2")) is False


def test_only_an_unfinished_page_refreshes_itself(tmp_path):
    record = record_of(tmp_path)
    for state in ("running", "interrupted", "finished"):
        record.write(state, total=12, seconds=1.0, seconds_left=None)
        assert f'"state": "{state}"' in (tmp_path / "preview.html").read_text()
    page = (tmp_path / "preview.html").read_text()
    assert 'if (preview.state === "running") setTimeout(() => location.reload()' in page
    # It works offline: nothing is fetched from elsewhere.
    assert not re.findall(r"https?://", page)
