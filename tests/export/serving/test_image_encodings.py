"""What an image file shows is the same to the SavedModel's signatures, to prediction and to training's evaluation."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_encodings import encode, encodings, photograph, png, refused
from processes import run_python

from keras_convmixer.export import Classifier
from keras_convmixer.export.serving.signatures import write_serving_model
from keras_convmixer.images.decoding import read_image
from keras_convmixer.images.preprocessing import Preprocessing
from keras_convmixer.training.data.lazy_images import Files, decode_and_validate

ENCODINGS = encodings()
# The model's own size is not that of an image: all are resized and cut, most enlarged.
COLOR, GREY = Preprocessing(96, 64, crop_fraction=0.9), Preprocessing(28, 28, channels=1)
PREPROCESSINGS = pytest.mark.parametrize("preprocessing", [COLOR, GREY], ids=["color", "grey"])


class Seen:
    """In place of a model: keeps the pixels that it is given."""

    def __call__(self, images):
        self.images = images
        return np.full((len(images), 2), 0.5, np.float32)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """SavedModels whose "probabilities" are the pixels that the model sees, written and read again."""
    loaded = {}
    for preprocessing in (COLOR, GREY):
        path = tmp_path_factory.mktemp("seen") / "1"
        shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
        images = keras.Input(shape)
        model = keras.Model(images, keras.layers.Flatten()(images))
        names = tuple(map(str, range(np.prod(shape))))
        write_serving_model(model, path, "seen", names, preprocessing)
        loaded[preprocessing] = tf.saved_model.load(str(path))
    return loaded


@pytest.fixture(scope="module")
def encoded(served):
    """What `encoded` answers for every encoding, in one request: bad ones beside good ones."""
    files = tf.constant([encoding.file for encoding in ENCODINGS.values()])
    answers = {}
    for preprocessing, loaded in served.items():
        answer = {key: value.numpy() for key, value in loaded.signatures["encoded"](images=files).items()}
        shape = (-1, preprocessing.height, preprocessing.width, preprocessing.channels)
        rows = zip(answer["probabilities"].reshape(shape), answer["classes"], answer["names"], strict=True)
        answers[preprocessing] = dict(zip(ENCODINGS, rows, strict=True))
    return answers


def test_there_are_enough():
    assert len(ENCODINGS) > 100
    assert sum(encoding.served for encoding in ENCODINGS.values()) > 60


@pytest.mark.parametrize("name", ENCODINGS)
def test_pillow_sees_what_was_encoded(name):
    encoding = ENCODINGS[name]
    if not encoding.read:
        with pytest.raises(ValueError, match="the image is"):
            read_image(encoding.file)
        return
    image = read_image(encoding.file)
    assert image.mode == "RGB"
    if encoding.pixels is None:
        return
    difference = np.abs(np.asarray(image, float) - encoding.pixels)
    if encoding.tolerance:
        assert difference.mean() <= encoding.tolerance
    else:
        assert difference.max() <= 1


@PREPROCESSINGS
@pytest.mark.parametrize("name", ENCODINGS)
def test_encoded_sees_what_pillow_sees_or_answers_unreadable(encoded, name, preprocessing):
    pixels, classes, names = encoded[preprocessing][name]
    encoding = ENCODINGS[name]
    if not encoding.served:
        assert not pixels.any()
        assert (classes == -1).all()
        assert (names == b"").all()
        return
    assert (classes >= 0).all()
    expected = preprocessing.apply(read_image(encoding.file)).astype(float)
    assert np.abs(pixels - expected).max() <= 1


@PREPROCESSINGS
def test_serving_default_sees_the_same_of_a_decoded_image(served, preprocessing):
    for name, encoding in ENCODINGS.items():
        if not encoding.read:
            continue
        image = read_image(encoding.file)
        given = np.asarray(image if preprocessing.channels == 3 else image.convert("L"))
        given = given.reshape(1, image.height, image.width, preprocessing.channels)
        answer = served[preprocessing].signatures["serving_default"](images=tf.constant(given))["probabilities"]
        expected = preprocessing.apply(image).astype(float).ravel()
        assert np.abs(answer.numpy()[0] - expected).max() <= 1, name


@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (20_000, 2), (4, 401), (7_072, 7_072)])
def test_serving_default_refuses_what_is_refused_elsewhere(served, size):
    images = tf.zeros((1, *size, 3), tf.uint8)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too small, too thin or too large"):
        served[COLOR].signatures["serving_default"](images=images)


@PREPROCESSINGS
def test_prediction_and_evaluation_see_the_same(tmp_path, preprocessing):
    seen = Seen()
    classify = Classifier(seen, ("a", "b"), preprocessing)
    read = {name: encoding for name, encoding in ENCODINGS.items() if encoding.read}
    paths = [tmp_path / name for name in read]
    for path, encoding in zip(paths, read.values(), strict=True):
        path.write_bytes(encoding.file)
    evaluated = decode_and_validate(Files(paths, np.zeros(len(paths), np.int64)), preprocessing, in_memory=True).images
    streamed = decode_and_validate(Files(paths, np.zeros(len(paths), np.int64)), preprocessing, in_memory=False).images
    for place, (path, encoding) in enumerate(zip(paths, read.values(), strict=True)):
        expected = preprocessing.apply(read_image(encoding.file))
        classify(path)
        np.testing.assert_array_equal(seen.images, expected[None])
        np.testing.assert_array_equal(evaluated[place], expected)
        np.testing.assert_array_equal(streamed[place], expected)


@pytest.mark.parametrize("name", refused())
def test_prediction_refuses_what_encoded_does_not_answer(tmp_path, name):
    path = tmp_path / "file.png"
    path.write_bytes(refused()[name])
    with pytest.raises(ValueError, match=r"file\.png is"):
        Classifier(Seen(), ("a", "b"), COLOR)(path)


def test_an_image_of_several_strips_is_resized_as_one(served):
    for orientation, size in ((1, (1500, 1700)), (3, (1700, 1500)), (6, (900, 2500))):
        exif = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation, 0, 0, 0, 0, 0, 0])
        file = encode(photograph(*size), "JPEG", quality=90, exif=exif)
        pixels = served[COLOR].signatures["encoded"](images=tf.constant([file]))["probabilities"].numpy()[0]
        expected = COLOR.apply(read_image(file)).astype(float).ravel()
        assert np.abs(pixels - expected).max() <= 1


def test_a_file_of_many_chunks_is_read_and_one_of_endlessly_many_ends(served):
    image = photograph()
    comment = b"\0\0\0\x05tEXta\0abc\0\0\0\0"
    few, many = (png(image, 8, 2, b"".join([comment] * count)) for count in (0, 100_000))
    jpeg = encode(image, "JPEG")
    segments = jpeg[:2] + b"\xff\xfe\0\2" * 100_000 + jpeg[2:]
    answer = served[COLOR].signatures["encoded"](images=tf.constant([few, many, segments]))["probabilities"].numpy()
    assert answer.any(-1).tolist() == [True, False, False]


def test_the_limit_of_pixels_is_that_of_the_export(tmp_path):
    limited = Preprocessing(8, 8, max_pixels=100 * 90)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()])
    write_serving_model(model, tmp_path / "1", "mean", ("red", "green", "blue"), limited)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    images = [np.full(shape, 200, np.uint8) for shape in ((100, 90, 3), (100, 91, 3))]
    files = [encode(image, format) for format in ("PNG", "JPEG") for image in images]
    answer = loaded.signatures["encoded"](images=tf.constant(files))["probabilities"].numpy()
    assert answer.any(-1).tolist() == [True, False, True, False]
    loaded.signatures["serving_default"](images=tf.constant(images[0][None]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        loaded.signatures["serving_default"](images=tf.constant(images[1][None]))


@pytest.mark.slow
def test_25_million_pixels_take_little_memory(tmp_path):
    """In a process of its own: the peak of this one would hide it."""
    model = keras.Sequential([keras.Input((224, 224, 3)), keras.layers.GlobalAveragePooling2D()])
    write_serving_model(model, tmp_path / "1", "mean", ("red", "green", "blue"), Preprocessing(224, 224))
    image = np.zeros((5000, 5000, 3), np.uint8)
    image[:, 2000:] = (255, 0, 51)
    (tmp_path / "large.png").write_bytes(encode(image, "PNG"))
    (tmp_path / "small.png").write_bytes(encode(image[::20, ::20], "PNG"))
    code = """
import sys
import tensorflow as tf
# getrusage begins with the peak of this test's process.
from keras_convmixer.environment.peak_memory import peak_memory
folder = sys.argv[1]
encoded = tf.saved_model.load(folder + "/1").signatures["encoded"]
files = [open(f"{folder}/{name}.png", "rb").read() for name in ("small", "large")]
encoded(images=tf.constant(files[:1]))
before = peak_memory()
print(*encoded(images=tf.constant(files[1:]))["probabilities"].numpy()[0])
print(peak_memory() - before)
"""
    means, size = run_python(code, tmp_path).stdout.splitlines()
    np.testing.assert_allclose([float(mean) for mean in means.split()], [153, 0, 30.6], atol=1)
    assert 75e6 < int(size) < 200e6  # the decoded image alone has 75 MB
