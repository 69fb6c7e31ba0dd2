"""report.html, as its text and as Chromium shows it."""

import copy
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from figure_layout import assert_texts_have_room

from keras_convmixer.export import read_manifest
from keras_convmixer.export.report import html_report
from keras_convmixer.export.report.html_report import pareto, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Cells(HTMLParser):
    """The texts of each table's cells, by the table's id and row; what the page loads; elements around each table."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.loaded, self._table, self._inside = {}, [], None, False
        self.around, self._open = {}, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.loaded += [
            attributes[name] for name in ("src", "href", "xlink:href") if not attributes.get(name, "#").startswith("#")
        ]
        if tag == "div":
            self._open.append(attributes.get("class"))
        if tag == "table":
            self.around[attributes["id"]] = list(self._open)
            self._table = self.tables.setdefault(attributes["id"], [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
            self._inside = True

    def handle_endtag(self, tag):
        self._inside = self._inside and tag not in ("td", "th")
        if tag == "div":
            self._open.pop()

    def handle_data(self, data):
        if self._inside:
            self._table[-1][-1] += data.strip()


def test_it_says_what_the_manifest_says_and_loads_nothing(toy_bundle):
    manifest = read_manifest(toy_bundle)
    page = (toy_bundle / "report.html").read_text()
    found = Cells(page)
    assert found.loaded == []
    assert "<script" not in page
    assert not re.search(r"url\(\s*['\"]?\s*(?!#)", page)
    assert set(manifest["latency"]["milliseconds"]) == {"float32", "float16", "dynamic", "int8"}
    for row, artifact in zip(found.tables["files"][1:], manifest["artifacts"], strict=True):
        milliseconds = manifest["latency"]["milliseconds"].get(artifact["name"])
        assert row == [
            artifact["path"],
            artifact.get("scheme", "for TF Serving"),
            f"{artifact['size'] / 1000:,.0f}",
            f"{artifact['gzip_size'] / 1000:,.0f}" if "gzip_size" in artifact else "",
            f"{milliseconds:.3g}" if milliseconds else "",
            f"{artifact['validation']['agreement']:.2%}",
            f"{artifact['validation']['accuracy']:.2%}",
            f"{artifact['validation']['max_difference']:.2g}",
            artifact.get("oldest_runtime", ""),
        ]
    layers = manifest["layer_errors"]["layers"]
    assert [row[:3] for row in found.tables["layers"][1:]] == [
        [layer["layer"], layer["operator"], f"{layer['error']:.2%}"] for layer in layers
    ]


@pytest.fixture
def strange(toy_bundle):
    """A manifest with a name that is HTML, no labels, and every file rejected."""
    manifest = copy.deepcopy(read_manifest(toy_bundle))
    manifest["model"]["name"] = "<b>net & co</b>"
    manifest["rejected"] = [{"name": "int8", "reason": "int8 is <i>wrong</i>", "validation": None}]
    manifest["artifacts"] = manifest["artifacts"][:1]
    manifest["artifacts"][0]["validation"]["accuracy"] = manifest["reference_accuracy"] = None
    manifest["layer_errors"], manifest["latency"]["milliseconds"] = None, {}
    return manifest


def test_what_is_not_known_or_not_there(strange, tmp_path):
    write_report(tmp_path, strange)
    page = (tmp_path / "report.html").read_text()
    assert "<h1>&lt;b&gt;net &amp; co&lt;/b&gt;</h1>" in page
    assert "int8 is &lt;i&gt;wrong&lt;/i&gt;" in page
    assert '<td data-name="accuracy">not known</td>' in page
    assert "<svg" not in page
    assert 'id="layers"' not in page


def test_on_a_phone_nothing_is_wider_than_the_page(toy_bundle):
    """420 pixels wide, with margins of a rem. Chromium measures it below, where there is one."""
    page = (toy_bundle / "report.html").read_text()
    assert Cells(page).around == {"files": ["wide"], "layers": ["wide"]}
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)[:1]
    rules = dict(re.findall(r"([^{}]+?) \{ ([^}]*) \}", re.sub(r"/\*.*?\*/", "", style)))
    rules = {selector.strip(): rule for selector, rule in rules.items()}
    assert "overflow-x: auto" in rules[".wide"]  # which scrolls by itself
    assert "overflow-wrap: anywhere" in rules["body"]  # breaks a long word, as of an error
    assert "flex-wrap: wrap" in rules[".figures"]
    assert "width: 100%" in rules["svg"]
    widths = [
        float(width) * 4 / 3 for width in re.findall(r'<svg [^>]*viewBox="0 0 ([\d.]+) ', page)
    ]  # points in pixels
    assert len(widths) == 2
    assert max(widths) <= 420  # so that a text of 9 points is not scaled down


def test_each_number_of_a_file_has_its_heading_beside_it_for_phones(toy_bundle):
    page = (toy_bundle / "report.html").read_text()
    headings = Cells(page).tables["files"][0]
    names = re.findall(r'data-name="([^"]+)"', page)
    assert names == headings[2:] * (len(names) // len(headings[2:]))


@pytest.mark.parametrize("spread", [1.0, 1.01, 2, 7, 30, 3000])
@pytest.mark.parametrize("smallest", [0.013, 7.3, 98_000])
def test_texts_of_the_figures_do_not_overlap(toy_bundle, monkeypatch, spread, smallest):
    manifest = copy.deepcopy(read_manifest(toy_bundle))
    files = manifest["artifacts"][1:]
    costs = [smallest * spread ** (number / (len(files) - 1)) for number in range(len(files))]
    manifest["latency"]["milliseconds"] = dict(zip([file["name"] for file in files], costs, strict=True))
    for file, cost in zip(files, costs, strict=True):
        file["size"] = 1000 * cost
    figures = []
    monkeypatch.setattr(html_report, "_svg", figures.append)
    html_report._draw_tradeoffs(manifest)
    assert len(figures) == 2
    for figure in figures:
        assert_texts_have_room(figure)
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert len([label for label in labels if label]) >= 2


def test_the_pareto_front():
    points = {"dear": (3, 90), "best": (2, 90), "fast": (1, 80), "slow": (4, 70), "same": (1, 75), "top": (9, 91)}
    assert pareto(points) == ["fast", "best", "top"]


MEASURE = """<script>
const of = (element) => element.getBoundingClientRect();
document.body.outerHTML = "<pre>" + JSON.stringify({
  width: document.documentElement.clientWidth, content: document.documentElement.scrollWidth,
  table: document.querySelector("#files").scrollWidth, place: document.querySelector(".wide").clientWidth,
  figure: of(document.querySelector("svg")).height,
  texts: document.querySelectorAll("svg use, svg text").length,
  rows: [...document.querySelectorAll("#files tr")].map((row) => of(row).height),
  bars: [...document.querySelectorAll(".bar")].map((bar) => of(bar).width),
}) + "</pre>";
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium, such as Debian's package chromium")
@pytest.mark.parametrize("width", [1280, 1000, 420])
def test_chromium_shows_it_whole(toy_bundle, tmp_path, width):
    page = tmp_path / "measured.html"
    page.write_text((toy_bundle / "report.html").read_text().replace("</body>", MEASURE))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(re.search(r"<pre>(.*)</pre>", process.stdout)[1])
    assert found["content"] <= found["width"]  # nothing sticks out
    assert width - 20 < found["width"] <= width  # but for a scroll bar
    assert found["table"] <= found["place"]  # nothing is cut off
    assert found["figure"] > 0.25 * min(width, 960)
    assert found["texts"] > 50
    assert len(found["rows"]) == 6
    headings, *rows = found["rows"]
    assert (headings > 15) == (width > 1072)  # on a phone each number has its heading beside it
    assert min(rows) > 15
    errors = [layer["error"] for layer in read_manifest(toy_bundle)["layer_errors"]["layers"]]
    assert found["bars"] == pytest.approx([max(found["bars"]) * error / max(errors) for error in errors], abs=1.0)
