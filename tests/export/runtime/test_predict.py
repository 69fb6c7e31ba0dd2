import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from processes import convmixer

from keras_convmixer.export import Classifier, verify_bundle
from keras_convmixer.export.tflite import conversion as litert
from keras_convmixer.images.decoding import read_image

NO_FRAMEWORK = ("tensorflow", "keras", "sklearn", "matplotlib")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "green.png"
    Image.new("RGB", (20, 30), (60, 200, 60)).save(path)
    return path


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_a_bundles_labels_and_probabilities(toy, toy_bundle, picture, name):
    classify = Classifier.load(toy_bundle, name)
    best = classify(picture)
    assert best[0].label == "green"
    assert sorted(p.label for p in best) == ["blue", "green", "red"]
    assert [p.probability for p in best] == sorted((p.probability for p in best), reverse=True)
    pixels = np.asarray(read_image(picture).resize((8, 8)), "float32")[None]
    expected = toy.model(pixels, training=False).numpy()[0, 1]
    assert best[0].probability == pytest.approx(expected, abs=0.02 if name == "int8" else 1e-4)
    assert [p.label for p in classify(picture, top=1)] == ["green"]


def test_a_file_in_a_bundle_takes_its_labels(toy_bundle, picture):
    assert Classifier.load(toy_bundle / "litert/int8.tflite")(picture)[0].label == "green"


def test_a_file_alone_has_numbered_classes(toy_bundle, picture, tmp_path):
    shutil.copy(toy_bundle / "litert/int8.tflite", tmp_path / "lone.tflite")
    assert Classifier.load(tmp_path / "lone.tflite")(picture)[0].label == "class 1"


def test_a_file_beside_a_foreign_manifest(toy_bundle, picture, tmp_path):
    (tmp_path / "assets").mkdir()
    shutil.copy(toy_bundle / "litert/int8.tflite", tmp_path / "assets/m.tflite")
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    assert Classifier.load(tmp_path / "assets/m.tflite")(picture)[0].label == "class 1"


def test_a_file_that_takes_int8_is_refused(toy, tmp_path):
    import tensorflow as tf

    def configure(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None].astype("float32")] for image in toy.train_images)
        converter.inference_input_type = converter.inference_output_type = tf.int8

    with litert.Conversion(toy.model) as conversion:
        (tmp_path / "int8.tflite").write_bytes(conversion.run(configure))
    with pytest.raises(ValueError, match="does not take and return float32 or uint8"):
        Classifier.load(tmp_path / "int8.tflite")


@pytest.mark.parametrize("top", [0, -1])
def test_top_is_one_or_more(toy_bundle, picture, top):
    with pytest.raises(ValueError, match=f"top={top}: give 1 or more"):
        Classifier.load(toy_bundle)(picture, top)


@pytest.fixture
def broken(toy_bundle, tmp_path):
    """A copy of a bundle to break."""
    return shutil.copytree(toy_bundle, tmp_path / "broken")


def flip_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["litert/float32.tflite", "labels.txt"])
@pytest.mark.parametrize("position", [0, -1])
def test_a_flipped_byte_is_told_by_the_checksum(broken, name, position):
    flip_byte(broken / name, position)
    with pytest.raises(ValueError, match=f"{name} was changed: its checksum"):
        Classifier.load(broken)


def test_a_flipped_byte_in_the_manifest_is_told(broken):
    manifest = broken / "manifest.json"
    size = manifest.stat().st_size
    for position in range(0, size, 7):
        flip_byte(manifest, position)
        with pytest.raises(ValueError, match=r"manifest\.json"):
            Classifier.load(broken)
        flip_byte(manifest, position)
    Classifier.load(broken)


def test_every_file_of_a_bundle_is_verified(broken):
    names = [path.relative_to(broken).as_posix() for path in broken.rglob("*") if path.is_file()]
    assert len(names) == 17
    for name in set(names) - {"manifest.json"}:
        verify_bundle(broken)
        flip_byte(broken / name, 10)
        with pytest.raises(ValueError, match=f"{name} was changed"):
            verify_bundle(broken)
        flip_byte(broken / name, 10)


def test_what_is_wrong_with_a_bundle_is_named(broken, tmp_path):
    manifest = broken / "manifest.json"
    content = manifest.read_text()

    def message(path=broken, **arguments):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            Classifier.load(path, **arguments)
        return str(error.value)

    assert "no such bundle" in message(tmp_path / "missing")
    assert "is not a bundle: it holds no manifest.json" in message(tmp_path)
    assert "no .tflite file 'float64': it has float32, float16, dynamic, int8" in message(format="float64")
    manifest.write_text(content[:-9])
    assert "manifest.json is damaged" in message()
    for schema in (0, 2):
        manifest.write_text(content.replace('"schema": 1', f'"schema": {schema}'))
        assert f"schema {schema}, and this version reads 1" in message()
    manifest.write_text("[]")
    assert "schema None" in message()
    manifest.write_text('{"schema": 1}')
    assert "manifest.json was changed" in message()
    manifest.write_text(content)
    (broken / "labels.txt").unlink()
    assert "labels.txt is missing" in message()
    (tmp_path / "text.tflite").write_text("not a model")
    assert "text.tflite is not a .tflite file" in message(tmp_path / "text.tflite")
    assert "is one file and has no formats" in message(tmp_path / "text.tflite", format="int8")


def test_the_command_needs_no_framework(toy_bundle, picture):
    process = convmixer("predict", toy_bundle, picture, blocked=NO_FRAMEWORK)
    assert process.returncode == 0
    assert "green" in process.stdout
    assert process.stderr == ""


def test_json_is_one_object_a_line(toy_bundle, picture, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("text")
    process = convmixer("predict", toy_bundle, bad, picture, "--json", "--top", "2", blocked=NO_FRAMEWORK)
    assert process.returncode == 1
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    by_file = {line["file"]: line for line in lines}
    assert "not an image" in by_file[str(bad)]["error"]
    predictions = by_file[str(picture)]["predictions"]
    assert [set(p) for p in predictions] == [{"label", "probability"}] * 2
    assert predictions[0]["label"] == "green"


def test_one_bad_picture_does_not_hide_the_others(toy_bundle, picture, tmp_path):
    photo = tmp_path / "half.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(photo)
    photo.write_bytes(photo.read_bytes()[:2000])
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    missing = tmp_path / "missing.png"
    process = convmixer("predict", toy_bundle, photo, picture, tmp_path / "dot.png", missing, blocked=NO_FRAMEWORK)
    assert process.returncode == 1
    assert "green" in process.stdout
    damaged, dot, absent = process.stderr.splitlines()
    assert "half.jpg is damaged" in damaged
    assert "1x1 pixels" in dot
    assert "there is no such file" in absent
    assert "Traceback" not in process.stderr


def test_arrays_and_pillow_images_are_classified_as_their_file(toy_bundle, picture):
    classify = Classifier.load(toy_bundle)
    image = Image.open(picture)
    expected = classify(picture)
    for source in (str(picture), picture.read_bytes(), image, np.asarray(image)):
        assert classify(source) == expected
    assert classify.batch([picture, np.asarray(image), image]) == [expected] * 3
    assert classify.batch(np.stack([np.asarray(image)] * 2), top=1) == [expected[:1]] * 2
    assert classify.batch([]) == []
    with pytest.raises(ValueError, match=r"the image is an array \[30, 20, 3\] of float32: give uint8 pixels 0\.\.255"):
        classify(np.asarray(image, "float32"))


def test_threads_may_share_a_classifier(toy_bundle):
    classify = Classifier.load(toy_bundle, threads=1)
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    alone = [classify(image) for image in images]
    assert len({predictions[0].probability for predictions in alone}) > 32
    with ThreadPoolExecutor(8) as pool:
        together = [list(pool.map(classify, images)) for _ in range(8)]
    assert all(answers == alone for answers in together)
