import os
import zipfile

import numpy as np
import pytest
from PIL import Image
from processes import convmixer

from keras_convmixer.export import calibration, read_manifest
from keras_convmixer.export.calibration import read_calibration
from keras_convmixer.images import folders as picture_folders
from keras_convmixer.images.folders import may_share_test_images
from keras_convmixer.images.preprocessing import Preprocessing

SEEN = Preprocessing(8, 8, 3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twenty images of different reds, and three files that cannot be read, which are few enough here."""
    monkeypatch.setattr(picture_folders, "DAMAGED", 0.2)
    monkeypatch.setattr(calibration, "DAMAGED", 0.2)
    place = tmp_path / "pictures"
    (place / "more").mkdir(parents=True)
    for number in range(20):
        Image.new("RGB", (20, 10), (10 * number, 0, 0)).save(
            place / ("more" if number % 2 else "") / f"{number:02}.png"
        )
    (place / "no.jpg").write_text("not a picture")
    whole = (place / "00.png").read_bytes()
    (place / "damaged.png").write_bytes(whole[: len(whole) // 2])
    (place / "notes.txt").write_text("not even meant as one")
    (place / "gone.png").symlink_to(place / "nowhere.png")
    return place


def reds(images):
    return sorted(int(image[0, 0, 0]) for image in images)


def test_a_folder_is_read_and_what_cannot_be_read_is_named(folder):
    found = read_calibration(folder, SEEN, 500, seed=0)
    assert found.images.shape == (20, 8, 8, 3)
    assert reds(found.images) == [10 * number for number in range(20)]
    assert sorted(sentence.split(" ")[0].rpartition("/")[2] for sentence in found.skipped) == [
        "damaged.png",
        "gone.png",
        "no.jpg",
    ]


def test_so_many_are_chosen_by_the_seed_whatever_cannot_be_read(folder):
    first, again, other = (read_calibration(folder, SEEN, 10, seed).images for seed in (0, 0, 1))
    assert first.shape == (10, 8, 8, 3)
    np.testing.assert_array_equal(first, again)
    assert reds(first) != reds(other)


@pytest.mark.parametrize("shape", [(30, 8, 8, 3), (30, 16, 12, 3), (30, 8, 8), (30, 9, 8, 1)])
def test_arrays_of_any_size_and_of_grey(tmp_path, shape):
    images = np.broadcast_to(np.arange(30, dtype=np.uint8).reshape(30, *[1] * (len(shape) - 1)), shape)
    np.savez(tmp_path / "a.npz", images=images, labels=np.zeros(30))
    np.save(tmp_path / "a.npy", images)
    found = read_calibration(tmp_path / "a.npz", SEEN, 12, seed=0).images
    assert found.shape == (12, 8, 8, 3)
    assert len(set(reds(found))) == 12
    np.testing.assert_array_equal(found, read_calibration(tmp_path / "a.npy", SEEN, 12, seed=0).images)


def write_header_alone(path, shape):
    """Write an archive of an array of which there is only the header."""
    with zipfile.ZipFile(path, "w") as archive, archive.open("images.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A folder of what nothing can be calibrated with."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "empty").mkdir()
    (folder / "unreadable").mkdir()
    (folder / "unreadable/a.png").write_text("no picture")
    (folder / "text.npz").write_text("no array")
    np.savez(folder / "two.npz", a=np.zeros(1), b=np.zeros(1))
    np.save(folder / "float.npy", np.zeros((3, 8, 8, 3), np.float32))
    np.savez(folder / "cut.npz", images=np.zeros((3, 8, 8, 3), np.uint8))
    (folder / "cut.npz").write_bytes((folder / "cut.npz").read_bytes()[:300])
    np.savez(folder / "objects.npz", images=np.array([np.zeros(1), np.zeros(2)], dtype=object))
    os.mkfifo(folder / "pipe.npz")
    np.savez_compressed(folder / "bomb.npz", images=np.zeros((1000, 200, 1000, 3), np.uint8))
    write_header_alone(folder / "lying.npz", (10**6, 1000, 1000, 3))
    write_header_alone(folder / "claims.npz", (300_000_000, 2, 2, 3))
    np.save(folder / "whole.npy", np.zeros((3, 8, 8, 3), np.uint8))
    whole = (folder / "whole.npy").read_bytes()
    (folder / "cut_header.npy").write_bytes(whole.replace(b"(3, 8, 8, 3), }", b"(3, 8, 8, 3   }"))
    (folder / "odd_header.npy").write_bytes(whole[:10] + b"{[]: 1}".ljust(118) + whole[128:])
    with zipfile.ZipFile(folder / "xz.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("images.npy", whole)
    content = bytearray((folder / "xz.npz").read_bytes())
    content[60:90] = bytes(30)
    (folder / "xz.npz").write_bytes(content)
    np.lib.format.open_memmap(folder / "thick.npy", "w+", np.uint8, (2, 10_000, 10_000, 3))
    np.save(folder / "one.npy", np.zeros((9, 8, 3), np.uint8))
    np.save(folder / "none.npy", np.zeros((0, 8, 8, 3), np.uint8))
    return folder


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nowhere", FileNotFoundError, "nowhere: there is no such folder, nor is it an .npz"),
        ("nowhere.npz", FileNotFoundError, "nowhere.npz: there is no such file"),
        ("empty", ValueError, "empty has no images to calibrate with"),
        ("unreadable", ValueError, "none of the 1 images in .*unreadable can be read"),
        ("text.npz", ValueError, "text.npz is damaged, or not an array file of NumPy"),
        ("cut.npz", ValueError, "cut.npz is damaged, or not an array file of NumPy"),
        ("objects.npz", ValueError, r"objects.npz holds object \(2,\)"),
        ("pipe.npz", ValueError, "pipe.npz is a pipe, not a file"),
        ("bomb.npz", ValueError, r"bomb.npz unpacks to 600,000,128 bytes, 1,0\d\d times its size"),
        ("lying.npz", ValueError, "lying.npz is damaged, or not an array file of NumPy"),
        ("claims.npz", ValueError, r"claims.npz is damaged, or .* says that it holds 3,600,000,000 bytes, in 1\d\d"),
        ("cut_header.npy", ValueError, "cut_header.npy is damaged, or not an array file of NumPy"),
        ("odd_header.npy", ValueError, "odd_header.npy is damaged, or not an array file of NumPy"),
        ("xz.npz", ValueError, "xz.npz is damaged, or not an array file of NumPy"),
        ("thick.npy", ValueError, "thick.npy holds images of 10000x10000 pixels, and the limit is 50,000,000"),
        ("one.npy", ValueError, r"one.npy holds uint8 \(9, 8, 3\)"),
        ("two.npz", ValueError, "two.npz holds a, b: name the array of images 'images'"),
        ("float.npy", ValueError, r"float.npy holds float32 \(3, 8, 8, 3\): give uint8"),
        ("none.npy", ValueError, "none.npy holds no images"),
    ],
)
def test_what_cannot_be_calibrated_with_is_named(damaged, name, error, words):
    with pytest.raises(error, match=words):
        read_calibration(damaged / name, SEEN, 10, seed=0)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_only_the_chosen_images_of_an_archive_are_kept(tmp_path, save):
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3)).astype(np.uint8)
    save(tmp_path / "a.npz", images=images, labels=np.zeros(200))
    found = read_calibration(tmp_path / "a.npz", SEEN, 20, seed=1).images
    np.testing.assert_array_equal(found, images[np.sort(np.random.default_rng(1).permutation(200)[:20])])
    np.savez(tmp_path / "f.npz", images=np.asfortranarray(images))
    with pytest.raises(ValueError, match=r"f\.npz is in Fortran's order"):
        read_calibration(tmp_path / "f.npz", SEEN, 20, seed=1)


@pytest.mark.slow
def test_the_command_calibrates_with_a_folder_and_says_what_it_left_out(quickstart, folder, tmp_path):
    for number, path in enumerate(sorted(quickstart.run.glob("images/*.png"))):
        (folder / f"digit_{number}.png").write_bytes(path.read_bytes())
    for name in ("no.jpg", "gone.png"):
        (folder / name).unlink()
    for number in range(100):  # one is damaged of over a hundred
        (folder / f"copy_{number}.png").write_bytes((folder / "00.png").read_bytes())
    out = tmp_path / "bundle"
    process = convmixer("export", quickstart.run, "--out", out, "--formats", "float32", "--calibration", folder)
    assert process.returncode == 0, process.stderr
    assert "left out: " in process.stderr
    assert "damaged.png is not an image" in process.stderr
    calibration = read_manifest(out)["calibration"]
    assert calibration["source"] == "images of a folder"
    assert calibration["images"] == 120 + len(list(folder.glob("digit_*")))
    assert len(calibration["skipped"]) == 1
    for given, code, words in (
        ("digits:test", 2, "each file is validated with images of it"),
        (tmp_path / "nowhere.npz", 1, "there is no such file"),
        (tmp_path / "nowhere", 1, "there is no such folder, nor is it an .npz or .npy file"),
    ):
        process = convmixer("export", quickstart.run, "--out", out, "--calibration", given)
        assert process.returncode == code
        assert words in process.stderr


@pytest.mark.slow
def test_a_named_split_gives_its_own_ranges(quickstart, tmp_path):
    for split, same in (("train", True), ("validation", False)):
        out = tmp_path / split
        convmixer("export", quickstart.run, "--out", out, "--formats", "int8", "--calibration", f"digits:{split}")
        file = (out / "litert/int8.tflite").read_bytes()
        assert (file == (quickstart.bundle / "litert/int8.tflite").read_bytes()) == same
        assert read_manifest(out)["calibration"]["source"] == f"{split} images of digits"


def test_folders_that_share_test_images_are_known(tmp_path):
    data = tmp_path / "data"
    for name in ("train/cat", "test/cat"):
        (data / name).mkdir(parents=True)
    shares = {"data": True, "data/test": True, "data/test/cat": True, "": True, "data/train": False, "other": False}
    for name, expected in shares.items():
        assert may_share_test_images(tmp_path / name, data) == expected, name
