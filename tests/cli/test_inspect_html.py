"""Pages about checkpoints: what they show, and that a hostile name stays text."""

from __future__ import annotations

import base64
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import fastrnn


class Page(HTMLParser):
    """The text of all cells by table, headings, pictures, and every tag."""

    def __init__(self, path):
        super().__init__()
        self.tables, self.headings, self.pictures, self.tags, self.bars = [], [], [], [], []
        self._into = None
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._into = self.tables[-1][-1]
        elif tag in ("h1", "h2"):
            self.headings.append("")
            self._into = self.headings
        elif tag == "img":
            self.pictures.append(attributes["src"])
        elif tag == "i":
            self.bars.append(attributes["style"])

    def handle_endtag(self, tag):
        if tag in ("td", "th", "h1", "h2"):
            self._into = None

    def handle_data(self, data):
        if self._into is not None:
            self._into[-1] += data


@pytest.fixture
def model(folder):
    layer = fastrnn.LSTM(3, 5, 2, bidirectional=True, rng=0)
    fastrnn.save({"rnn": layer.state_dict(), "head": {"weight": np.ones((2, 10)), "bias": np.ones(2)}}, "model.pt")
    np.save("x.npy", np.random.default_rng(0).standard_normal((7, 2, 3)))
    return layer


def test_page_of_a_checkpoint(cli, model):
    assert cli("inspect", "model.pt", "--html", "page.html") == (0, "", "")
    page = Page("page.html")
    assert page.headings == ["model.pt", "Layers", "Contents"]
    layers, contents = page.tables
    assert layers[1][:3] == ["rnn.", "LSTM(3, 5, num_layers=2, bidirectional=True)", "1,080"]
    assert layers[2][0] == "head."
    names = {row[0].strip("└├─│ "): row for row in contents[1:]}
    assert names["weight_ih_l0"][1:4] == ["60", "240 B", "float32 (20, 3)"]
    assert page.bars[0] == "width:100.0%"
    assert not page.pictures


def test_page_with_gates(cli, model):
    assert cli("inspect", "model.pt", "--html", "page.html", "--input", "x.npy")[0] == 0
    page = Page("page.html")
    gates = [f"Layer {i}{reverse}: gates over 7 steps" for i in range(2) for reverse in ("", ", reverse")]
    assert page.headings[2:-1] == gates
    for picture in page.pictures:
        kind, _, data = picture.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert len(set(page.pictures)) == 4


def test_the_page_needs_nothing_else(cli, model):
    cli("inspect", "model.pt", "--html", "page.html", "--input", "x.npy")
    text = Path("page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|<script|<link|@import|url[(]", text)


def test_a_hostile_name_stays_text(cli, folder):
    name = "<script>alert(1)</script><img src=x onerror='y'>&amp;\"\x1b[2J"
    fastrnn.save({name: np.ones(3)}, "<b>.pt")
    assert cli("inspect", "<b>.pt", "--html", "page.html")[0] == 0
    page = Page("page.html")
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "b" not in page.tags
    assert any("<script>alert(1)</script>" in row[0] and "\x1b" not in row[0] for row in page.tables[-1])


def test_json_beside_the_page(cli, model):
    status, out, _ = cli("inspect", "model.pt", "--html", "page.html", "--json")
    assert status == 0
    assert out.startswith("{")
    assert Path("page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input", "x.npy"], "for the page that --html writes"),
        (["--html", "page.html", "--input", "y.npy"], "no such file; did you mean 'x.npy'"),
        (["--html", "page.html", "--input", "wide.npy"], r"expected shape (T, N, 3) or (T, 3)"),
        (["--html", "page.html", "--input", "x.npy", "--prefix", "rnnn"], "no recurrent layer where one is expected"),
        (["--html", "nowhere/page.html"], "nowhere"),
    ],
)
def test_wrong_usage_leaves_nothing(cli, model, arguments, expected):
    np.save("wide.npy", np.ones((7, 2, 4)))
    status, out, err = cli("inspect", "model.pt", *arguments)
    assert (status, out) == (2, "")
    assert expected in err
    assert sorted(os.listdir()) == ["model.pt", "wide.npy", "x.npy"]


def test_the_page_replaces_nothing_that_is_read(cli, model):
    before = Path("model.pt").read_bytes()
    np.save("x.html", np.ones(3))  # np.save makes x.html.npy
    os.rename("x.html.npy", "x.html")
    for arguments, expected in (
        (["--html", "model.pt"], "ends in .html"),
        (["--html", "x.html", "--input", "x.html"], "would overwrite x.html"),
    ):
        status, _, err = cli("inspect", "model.pt", *arguments)
        assert status == 2
        assert expected in err
    os.symlink("model.pt", "link.html")
    assert cli("inspect", "model.pt", "--html", "link.html")[0] == 2
    assert Path("model.pt").read_bytes() == before
