"""The scripts and the notebook in examples/ run, on a few small images."""

import json
import re
from pathlib import Path

import keras
import nbformat
import pytest
from PIL import Image
from processes import run_forked

from keras_convmixer.export import read_manifest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


def run_script(name, *arguments, cwd):
    ended = run_forked((EXAMPLES / name).read_text(), *arguments, cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def folder(example_files, tmp_path):
    """A fresh folder with bundle/ and photos/."""
    for name in ("bundle", "photos"):
        (tmp_path / name).symlink_to(example_files / name)
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_the_command(script, tmp_path):
    assert f"python examples/{script}" in run_script(script, "--help", cwd=tmp_path)


def test_the_table_names_every_example():
    listed = re.findall(r"^\| \[(\S+)\]\(\1\)", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted([*SCRIPTS, *(path.name for path in EXAMPLES.glob("*.ipynb"))])


@pytest.mark.slow
def test_photos_become_a_bundle(folder):
    printed = run_script("train_on_photos.py", "photos", "--epochs", "30", "--image-size", "8", cwd=folder)
    assert (folder / "photos_out/run/model.keras").is_file()
    manifest = read_manifest(folder / "photos_out/bundle")
    assert {artifact["name"]: artifact["validation"]["accuracy"] for artifact in manifest["artifacts"]}["float32"] > 0.6
    assert printed.splitlines()[-1].startswith("photos/blue/11.png: blue ")


@pytest.mark.slow
def test_keras_fine_tunes(folder):
    options = ("--variant", "ConvMixer256_8", "--weights", "none", "--epochs", "1")
    assert "Labels: blue, green, red" in run_script("keras_finetune.py", "photos", *options, cwd=folder)
    assert keras.saving.load_model(folder / "finetuned.keras").output_shape == (None, 3)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_frames_of_a_video_are_classified(folder, suffix):
    colors = [Image.open(folder / f"photos/{color}/{number}.png") for color, number in (("red", 0), ("blue", 2))]
    colors[0].save(folder / f"clip{suffix}", save_all=True, append_images=[*colors, colors[1]], duration=500)
    printed = run_script("video_frames.py", "bundle", f"clip{suffix}", "--every", "1", cwd=folder).splitlines()
    assert [line.split("(")[0].split() for line in printed[:-1]] == [["0.0", "s", "red"], ["1.0", "s", "blue"]]
    assert printed[-1] == "red: 1 frames, blue: 1 frames"


def test_frames_of_any_video_are_read_by_opencv(folder):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    size = (16, 16)
    video = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 2, size)
    for _ in range(4):
        video.write(cv2.imread(str(folder / "photos/red/0.png")))
    video.release()
    printed = run_script("video_frames.py", "bundle", "clip.avi", cwd=folder).splitlines()
    assert printed[-1] == "red: 2 frames"


SMALLER = {"dim=64, depth=4": "dim=32, depth=2", "seconds=0.5": "seconds=0.03"}
"""What the notebook's code is changed to, so that it takes less time."""
RUN_CELLS = """
import json, os, sys
os.environ["IPYTHONDIR"] = "ipython"  # in the current folder
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.loads(sys.argv[1]):
    shell.run_cell(cell).raise_error()
"""


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in cells] == [[]] * len(cells), "clear the outputs before you commit the notebook"
    code = json.dumps([cell.source for cell in cells])
    for words, smaller in SMALLER.items():
        assert words in code, f"the notebook no longer says {words}: change SMALLER"
        code = code.replace(words, smaller)
    process = run_forked(RUN_CELLS, code, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert read_manifest(tmp_path / "digits_bundle")["artifacts"][0]["validation"]["accuracy"] > 0.9
    with Image.open(tmp_path / "speed.png") as figure:
        assert min(figure.size) > 100
