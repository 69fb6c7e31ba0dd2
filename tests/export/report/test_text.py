"""Text in a bundle: labels are never markup, and nothing says on which machine it was made."""

import os
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from markdown_it import MarkdownIt
from PIL import Image
from processes import Forked

import keras_convmixer
from keras_convmixer.export import formats, inspect, read_manifest
from keras_convmixer.export.report.html_report import write_report
from keras_convmixer.export.report.model_card import write_model_card
from keras_convmixer.export.report.text import escape_markdown, without_local_paths
from keras_convmixer.export.tflite.rewrites.metadata import add_metadata
from keras_convmixer.files.printable import is_printable, printable

COLORS = ("red", "green", "blue")
LABELS = ("*b* <script>x</script> | :smile: `$x$`", "\x1b]0;title\x07\u202e__b__", "[a](http://b.c) ![](d) &amp; # x")
TOKEN = "qzx7w0place"


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tabby cat", "tabby cat"),
        ("great_white_shark, St. Bernard (51.67%)", "great_white_shark, St. Bernard (51.67%)"),
        ("_x_", "`_x_`"),
        (":smile:", "`:smile:`"),
        ("- x", "`- x`"),
        ("a|b", "`a|b`"),
        ("`a``", "``` `a`` ```"),
        ("www.example.com", "`www.example.com`"),
        ("a\nb\x1b", "`a\\nb\\x1b`"),
    ],
)
def test_text_that_markdown_would_read_is_code(text, shown):
    assert escape_markdown(text) == shown
    page = Page(MarkdownIt("commonmark").enable("table").render(f"- {shown}"))
    assert page.text.strip() == printable(text)
    assert page.tags <= {"ul", "li", "code"}


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("/home/jo/cats/x.jpg is damaged", "x.jpg is damaged"),
        ("pictures/of mine/cats/x.jpg is damaged", "x.jpg is damaged"),
        ('File "/usr/lib/python3.11/keras/x.py", line 2', 'File "x.py", line 2'),
        (r"C:\Users\jo\x.jpg is damaged", "x.jpg is damaged"),
        ("~/x/y.jpg, either/or, https://a.b/c/d, 16/255", "y.jpg, either/or, https://a.b/c/d, 16/255"),
        (f"no place in {Path.cwd()}: see {Path.cwd()}/a/b", "no place in a folder: see b"),
        ("layer model/block_0/conv has", "layer model/block_0/conv has"),
    ],
)
def test_paths_are_shortened_to_their_last_part(sentence, shown):
    assert without_local_paths(sentence, "pictures/of mine/") == shown


NAME = "m <b>\x1b[2J|*x*"


def failing(*_):
    raise RuntimeError("<i>no</i> \x1b[2J /a/b/c.py *x*")


REASON = r"float16 was not made: RuntimeError: <i>no</i> \x1b[2J c.py *x*"


def test_the_card_and_the_report_show_text_as_it_is(toy_bundle, tmp_path):
    manifest = read_manifest(toy_bundle)
    manifest["model"]["name"] = NAME
    manifest["warnings"] = ["<b>\x1b[2J</b>"]
    manifest["rejected"] = [{"name": "float16", "reason": f"{REASON}\x1b[2J"}]
    manifest["calibration"]["source"] = "<u>\u202e</u>"
    write_model_card(tmp_path, manifest, LABELS)
    write_report(tmp_path, manifest)
    card, page = ((tmp_path / name).read_text() for name in ("README.md", "report.html"))
    for text in (card, page):
        assert all(is_printable(character) for character in text if character != "\n")
    _, _, body = card.split("---\n", 2)
    shown = Page(MarkdownIt("commonmark").enable("table").render(body))
    assert shown.tags <= {"h1", "h2", "p", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "ul", "ol", "li"}
    for label in LABELS:
        assert printable(label) in shown.text
    for text in (shown.text, Page(page).text):
        assert printable(NAME) in text
        assert printable(f"{REASON}\x1b[2J") in text
    assert printable("<b>\x1b[2J</b>") in Page(page).text
    assert printable("<u>\u202e</u>") in Page(page).text
    assert not Page(page).tags & {"b", "i", "u", "script"}


def test_a_binary_models_card_shows_its_labels_as_they_are(toy_bundle, tmp_path):
    manifest = read_manifest(toy_bundle)
    manifest["outputs"] |= {"kind": "binary", "threshold": 0.5}
    write_model_card(tmp_path, manifest, ("_no_", "<b>yes</b>"))
    card = (tmp_path / "README.md").read_text()
    assert "the probability of `<b>yes</b>`, which is given at 0.5 or more, else `_no_`." in card


def test_metadata_has_a_label_a_line_and_no_control_characters(toy_bundle, tmp_path):
    content = (toy_bundle / "litert/float32.tflite").read_bytes()
    path = tmp_path / "float32.tflite"
    path.write_bytes(add_metadata(content, NAME, "", LABELS, True, (8, 8, 3)))
    with zipfile.ZipFile(path) as archive:
        text = archive.read("labels.txt").decode()
    assert text.split("\n") == [*map(printable, LABELS), ""]
    assert printable(NAME).encode() in path.read_bytes()
    assert b"\x1b[2J" not in path.read_bytes()


@pytest.mark.slow
def test_an_export_keeps_labels_as_data_and_its_sentences_clean(toy, tmp_path):
    model = keras.Model(toy.model.input, toy.model.output, name=NAME)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(formats.FORMATS, "float16", formats.Format("", failing))
        manifest = toy.export(
            tmp_path / "bundle",
            model=model,
            class_names=LABELS,
            formats=("float32", "float16"),
            calibration_source="<u>\x1b[2J</u> of /a/b/c",
            calibration_skipped=("/a/b/<u>\x1b[2J.png is damaged",),
        )
    assert (tmp_path / "bundle/labels.txt").read_bytes().decode().split("\n") == [*LABELS, ""]
    signature = tf.saved_model.load(str(tmp_path / "bundle/saved_model/1")).signatures["serving_default"]
    names = signature(images=tf.constant(toy.test_images[:1]))["names"].numpy()[0]
    assert {name.decode() for name in names} == set(LABELS)
    assert inspect(tmp_path / "bundle/litert/float32.tflite").labels == tuple(map(printable, LABELS))
    assert manifest["calibration"]["source"] == r"<u>\x1b[2J</u> of c"
    assert manifest["calibration"]["skipped"] == [r"<u>\x1b[2J.png is damaged"]
    assert manifest["rejected"][0]["reason"] == REASON


@pytest.mark.slow
def test_no_file_of_a_bundle_says_where_it_was_made(toy, tmp_path):
    place = tmp_path / TOKEN
    for number, (image, label) in enumerate(zip(toy.train_images, np.arange(100) % 3, strict=True)):
        path = place / f"pictures/{COLORS[label]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        (place / "more").mkdir(exist_ok=True)
        Image.fromarray(image[::-1]).save(place / f"more/{number}.png")
    (place / "more/damaged.png").write_bytes(b"no picture")
    (place / "home").mkdir()
    (place / "temporary").mkdir()
    toy.model.save(place / "model.keras")
    (place / "labels.txt").write_text("\n".join(COLORS) + "\n")
    surroundings = {"HOME": str(place / "home"), "TMPDIR": str(place / "temporary")}
    options = ("--formats", "float32", "float16", "dynamic", "int8", "weight_int8", "qat_int8")
    (place / "qat_int8.tflite").write_bytes(b"no model")  # its rejection is a sentence of LiteRT's
    given = ("--data", place / "pictures", "--calibration", "more")
    process = Forked(
        *("export", place / "model.keras", "--out", place / "bundle", *given, *options),
        cwd=place,
        environment=surroundings,
    ).finished()
    assert "damaged.png" in process.stderr
    manifest = read_manifest(place / "bundle")
    assert [file["name"] for file in manifest["rejected"]] == ["qat_int8"]
    assert len(manifest["artifacts"]) == 6
    assert manifest["calibration"]["source"] == "images of a folder"
    assert manifest["calibration"]["skipped"][0].startswith("damaged.png is not an image")
    places = (tmp_path, sys.prefix, sys.base_prefix, Path(keras_convmixer.__file__).parents[1], Path.home())
    words = [os.fsencode(word) for word in (TOKEN, "site-packages", *(f"{place}/" for place in places))]
    for path in (place / "bundle").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [word for word in words if word in content], path
