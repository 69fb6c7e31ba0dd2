"""What commands do with damaged images and with files that are not images by their ending: all the same."""

import errno
import os
import re
import shutil

import numpy as np
import pytest
import special_files
from image_encodings import damaged_avif, encode, photograph
from PIL import Image
from processes import convmixer

from keras_convmixer import Preprocessing
from keras_convmixer.export.calibration import read_calibration
from keras_convmixer.images.folders import image_files, report_left_out, require_few_damaged
from keras_convmixer.training import load_dataset, load_images

SEEN = Preprocessing(64, 48)


def save(folder, count=60):
    """Two labels; in each a damaged AVIF named so is to be added."""
    for place, label in enumerate(("cat", "dog")):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (70, 60), (number, 0, 255 * place)).save(folder / label / f"{number:03}.png")
    return folder


@pytest.fixture
def folder(tmp_path):
    """120 images, one more that is a damaged AVIF, and files of other endings."""
    place = save(tmp_path / "photos")
    (place / "cat/damaged.avif").write_bytes(damaged_avif())
    for name in ("cat/1.heic", "dog/2.HEIC", "dog/notes.txt", "dog/README", "dog/.hidden", "cat/.more/3.heic"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("not read")
    return place


LEFT_OUT = (
    r"4 files of .*photos are left out, by ending \(2 \.heic, 1 without an ending, 1 \.txt\); "
    r"endings that are read: .*\.webp"
)


def test_one_damaged_avif_among_120_is_left_out_and_counted_everywhere(folder):
    _, split, damaged, left_out = load_images(str(folder), SEEN)
    assert len(split) == 120
    dataset = load_dataset(str(folder), SEEN)
    assert sum(len(part) for part in (dataset.train, dataset.validation, dataset.test)) == 120
    calibration = read_calibration(folder, SEEN, 500, seed=0)
    assert len(calibration.images) == 120
    for sentences in (damaged, dataset.damaged, calibration.skipped):
        assert len(sentences) == 1
        assert "damaged.avif is damaged" in sentences[0]
    for sentences in (left_out, dataset.left_out, calibration.left_out):
        (sentence,) = sentences
        assert re.fullmatch(LEFT_OUT, sentence)


def test_what_macos_puts_into_zip_files_is_skipped(folder):
    """Beside the labels and in them, and in folders of splits: a hidden file for each image, none of them an image."""
    for place in (folder, folder / "cat", folder / "cat/more"):
        (place / "__MACOSX/cat").mkdir(parents=True)
        (place / "__MACOSX/cat/._000.png").write_bytes(b"resource fork")
        (place / "__MACOSX/cat/000.png").write_bytes(b"resource fork")
    (folder / "cat/._000.png").write_bytes(b"resource fork")
    class_names, split, damaged, left_out = load_images(str(folder), SEEN)
    assert class_names == ("cat", "dog")
    assert len(split) == 120
    assert len(damaged) == 1
    assert re.fullmatch(LEFT_OUT, left_out[0])
    assert len(load_dataset(str(folder), SEEN).damaged) == 1
    assert len(read_calibration(folder, SEEN, 500, seed=0).images) == 120
    shutil.copytree(folder, folder.parent / "split/train")
    shutil.copytree(folder, folder.parent / "split/test")
    shutil.copytree(folder / "__MACOSX", folder.parent / "split/__MACOSX")
    dataset = load_dataset(str(folder.parent / "split"), SEEN)
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset.test) == 120


def test_over_one_percent_are_an_error_everywhere(folder):
    (folder / "dog/000.png").write_bytes(b"")
    for read in (
        lambda: load_images(str(folder), SEEN),
        lambda: load_dataset(str(folder), SEEN),
        lambda: read_calibration(folder, SEEN, 500, seed=0),
    ):
        with pytest.raises(ValueError, match=r"2 of 121 images are damaged, more than 1%: .*damaged"):
            read()


@pytest.mark.parametrize("name", [name for name in special_files.REASONS if name != "folder"])
def test_a_path_that_leads_to_no_file_is_left_out_as_damaged(folder, tmp_path, name):
    special_files.make(tmp_path)
    (folder / "cat/damaged.avif").unlink()
    (tmp_path / f"{name}.png").rename(folder / f"cat/{name}.png")
    dataset = load_dataset(str(folder), SEEN)
    for sentences in (load_images(str(folder), SEEN).damaged, dataset.damaged):
        assert len(sentences) == 1
        assert f"{name}.png {special_files.REASONS[name]}" in sentences[0]
    assert sum(len(part) for part in (dataset.train, dataset.validation, dataset.test)) == 120


def test_a_file_that_may_not_be_read_is_left_out_as_damaged(folder, monkeypatch):
    read = os.open

    def denied(path, *arguments):
        if str(path).endswith("007.png") and "cat" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path, *arguments)

    monkeypatch.setattr(os, "open", denied)
    (folder / "cat/damaged.avif").unlink()
    (damaged,) = load_images(str(folder), SEEN).damaged
    assert damaged.endswith("cat/007.png: Permission denied")


def test_linked_folders_are_searched_once(tmp_path):
    save(tmp_path / "elsewhere", 3)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/cat/back").symlink_to(tmp_path / "folder")
    found = image_files(tmp_path / "folder")
    assert [path.relative_to(tmp_path).as_posix() for path in found.paths] == [
        f"folder/again/{label}/00{number}.png" for label in ("cat", "dog") for number in range(3)
    ]


def test_a_folder_that_may_not_be_read_is_not_passed_over(folder, monkeypatch):
    scan = os.scandir

    def denied(path):
        if str(path).endswith("dog"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(PermissionError, match="dog"):
        image_files(folder)


def test_a_sample_with_many_damaged_by_chance_is_not_an_error(folder):
    # Read first of 121 by this seed: alone it is one of two.
    seed = next(seed for seed in range(1000) if np.random.default_rng(seed).permutation(121)[0] == 60)
    found = read_calibration(folder, SEEN, 1, seed)
    assert len(found.images) == 1
    assert len(found.skipped) == 1


def test_exactly_one_percent_is_none():
    require_few_damaged(["a"], 100)
    with pytest.raises(ValueError, match="1 of 99 images"):
        require_few_damaged(["a"], 99)


def test_splits_count_what_is_left_out_of_all(folder, tmp_path):
    (tmp_path / "split").mkdir()
    shutil.copytree(folder, tmp_path / "split/train")
    save(tmp_path / "split/val", 3)
    (tmp_path / "split/val/cat/last.jp2x").write_text("not read")
    dataset = load_dataset(str(tmp_path / "split"), SEEN)
    assert len(dataset.damaged) == 1
    assert "5 files of" in dataset.left_out[0]
    assert "1 .jp2x" in dataset.left_out[0]


def test_every_ending_that_pillow_reads_here_is_read(tmp_path):
    for ending, format in {
        ".jfif": "JPEG",
        ".JPE": "JPEG",
        ".avif": "AVIF",
        ".jp2": "JPEG2000",
        ".j2k": "JPEG2000",
        ".ppm": "PPM",
        ".pgm": "PPM",
        ".apng": "PNG",
        ".webp": "WEBP",
        ".tif": "TIFF",
        ".bmp": "BMP",
        ".gif": "GIF",
    }.items():
        if format not in Image.OPEN:
            continue
        (tmp_path / f"photo{ending}").write_bytes(encode(photograph(), format))
    found = image_files(tmp_path)
    assert not found.others
    assert len(found.paths) == len(list(tmp_path.iterdir()))
    for path in found.paths:
        difference = np.abs(SEEN.load(path).astype(float) - SEEN.apply(Image.fromarray(photograph())))
        assert difference.mean() < 20, path


def test_a_folder_of_unread_files_only_is_said_to_be_one(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(12):
            (tmp_path / "data" / label / f"{number}.heic").write_text("not read")
    for read in (load_images, load_dataset):
        with pytest.raises(ValueError, match=r"no images in cat, dog that can be read \(cat has 12 \.heic, dog has"):
            read(str(tmp_path / "data"), SEEN)
    with pytest.raises(ValueError, match=r"no images that can be read \(24 \.heic\): save them as JPEG or PNG"):
        read_calibration(tmp_path / "data", SEEN, 10, seed=0)


def test_the_report_names_ten_and_counts_all(capsys):
    report_left_out([f"{number}.png is damaged" for number in range(12)], ("3 files left out",))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "convmixer: left out: 0.png is damaged"
    assert len(lines) == 12
    assert lines[-2:] == ["convmixer: 12 images are damaged and left out", "convmixer: 3 files left out"]


@pytest.mark.slow
def test_commands_say_what_they_left_out(folder, quickstart, tmp_path):
    labels = tmp_path / "digits"
    for label in map(str, range(10)):
        shutil.copytree(folder / "dog", labels / label)
    (labels / "3/damaged.avif").write_bytes(damaged_avif())
    run = quickstart.run
    for command in (
        ("evaluate", run, "--data", labels),
        ("export", run, "--data", labels, "--out", tmp_path / "bundle", "--formats", "float32"),
    ):
        said = convmixer(*command).stderr
        assert "damaged.avif is damaged" in said
        assert "1 image is damaged and left out" in said
        assert "30 files of" in said
        assert "10 .heic, 10 without an ending, 10 .txt" in said
