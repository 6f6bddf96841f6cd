"""The html report: its source, and what a browser makes of it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_samples import EDGES, HOSTILE_TEXTS, hostile, still_image, three

from psamf_edge.report import render
from psamf_edge.report.escape import printable
from psamf_edge.result import NEUTRAL_BAND, SCORE_LIMIT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "img", "br", "hr", "link", "input"}

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class Page(HTMLParser):
    """Collects the tags and the texts, and checks that elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def browse(page: str, folder: Path, *options: str) -> str:
    """Open a page in a fresh headless Chromium; what the browser prints."""
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}", *options, file.as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment).stdout


def page_requests(net_log: Path) -> set[str]:
    """Who asked for something, but for the browser itself, whose own requests have no origin."""
    return set(re.findall(r'"initiator":"([^"]*)"', net_log.read_text())) - {"not an origin"}


@pytest.mark.parametrize("result", EDGES.values(), ids=EDGES.keys())
def test_page_is_well_formed_and_refers_to_nothing_outside(result):
    page = Page(render([result], "html"))
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "video", "audio", "use"}
        assert not attributes.keys() & {"src", "srcset", "style", "data", "action", "xlink:href"}
        assert attributes.get("href", "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert [tag for tag, _ in page.tags].count("script") == 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    rows = [attributes for tag, attributes in page.tags if tag == "tr" and "data-segment" in attributes]
    assert len(rows) == len(result.segments)


def test_policy_admits_the_style_and_the_script_of_the_page_only():
    text = render([three()], "html")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; ")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_page_shows_every_text_as_text():
    shown = "\n".join(Page(render([hostile()], "html")).texts)
    for text in HOSTILE_TEXTS:
        assert printable(text) in shown


def test_page_says_what_the_score_is_not():
    said = " ".join("".join(Page(render([three()], "html")).texts).split())
    for words in ("does not measure what a person feels", "hiring, credit", "law enforcement", "English monologue"):
        assert words in said
    for words in ("psamf-student", "int8", "onnxruntime", "cd" * 32, "ab" * 32, "141.2 ms", "could not be decoded"):
        assert words in said
    assert f"from -{SCORE_LIMIT:g}," in said
    assert f"Between -{NEUTRAL_BAND} and +{NEUTRAL_BAND} the label is neutral" in said
    assert "in 2 of 3 utterances" in said, "the face is missing once"


def test_page_of_several_clips_lists_them():
    page = Page(render([three(), still_image()], "html"))
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == ["#clip-1", "#clip-2"]
    assert {"clip-1", "clip-2"} <= {attributes.get("id") for _, attributes in page.tags}


@needs_browser
def test_browser_shows_hostile_texts_runs_the_script_and_asks_no_network(tmp_path):
    """A probe, admitted by its own hash, focuses a row; the page's script must then light its bars and no others."""
    probe = """
      document.querySelector('tr[data-segment="3"]').dispatchEvent(new FocusEvent("focusin", { bubbles: true }));
      document.body.textContent = JSON.stringify({
        lit: [...document.querySelectorAll(".lit")].map((e) => e.tagName + e.dataset.segment),
        scripts: document.scripts.length, images: document.images.length,
        said: [...document.querySelectorAll("td.said")].map((e) => e.textContent),
        font: getComputedStyle(document.body).fontFamily,
        wider: document.documentElement.scrollWidth > innerWidth,
      });
    """
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    page = render([hostile()], "html")
    page = page.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    page = page.replace("</body>", f"<script>{probe}</script></body>")
    net_log = tmp_path / "net.json"
    dom = browse(page, tmp_path, "--dump-dom", f"--log-net-log={net_log}", "--window-size=500,900")
    state = json.loads(html.unescape(re.search("<body>(.*)</body>", dom, re.DOTALL)[1]))
    assert sorted(state["lit"]) == ["TR3", "g3"]
    assert state["scripts"] == 2, "the page's own and the probe"
    assert state["images"] == 0
    assert state["said"] == [printable(text) for text in HOSTILE_TEXTS]
    assert "system-ui" in state["font"], "the policy admits the style"
    assert not state["wider"], "a narrow screen scrolls no further sideways than its tables"
    assert not page_requests(net_log)


@needs_browser
def test_requests_of_a_page_would_be_noticed(tmp_path):
    net_log = tmp_path / "net.json"
    browse('<img src="https://example.org/x.png">', tmp_path, "--dump-dom", f"--log-net-log={net_log}")
    assert page_requests(net_log) == {"null"}


@needs_browser
def test_browser_paints_the_report(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    picture = tmp_path / "page.png"
    browse(render([three()], "html"), tmp_path, f"--screenshot={picture}", "--window-size=1280,900")
    pixels = np.asarray(image_module.open(picture).convert("RGB"))  # (900, 1280, 3)
    assert pixels.shape == (900, 1280, 3)
    for color in ([0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00], [0xFF, 0xFF, 0xFF]):  # bars of both signs, paper
        assert (pixels == color).all(axis=2).sum() > 500
