from pathlib import Path

import keras
import numpy as np
import peers
import pytest
import tensorflow as tf
from PIL import Image

import keras_convmixer as kc
from keras_convmixer.model.imagenet import class_names

PHOTOGRAPHS = Path(__file__).parents[4] / "shared" / "data" / "photos"  # beside a checkout of the team, WNID/name.JPEG
PIXELS = np.random.RandomState(0).randint(0, 256, (2, 5, 4, 3))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
@pytest.mark.parametrize("kind", [np.asarray, keras.ops.convert_to_tensor])
def test_pixels_are_scaled_by_imagenets_mean_and_deviation(dtype, kind):
    pixels = PIXELS.astype(dtype)
    given = kind(pixels.copy())
    scaled = keras.ops.convert_to_numpy(kc.preprocess_input(given))
    expected = (PIXELS / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(scaled, expected, atol=1e-5)
    assert np.issubdtype(scaled.dtype, np.floating)
    np.testing.assert_array_equal(np.asarray(given), pixels)  # what was given stays


def test_one_image_and_channels_first():
    batch = kc.preprocess_input(PIXELS)
    np.testing.assert_array_equal(kc.preprocess_input(PIXELS[0]), batch[0])
    first = kc.preprocess_input(PIXELS.transpose(0, 3, 1, 2), data_format="channels_first")
    np.testing.assert_allclose(first.transpose(0, 2, 3, 1), batch, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 4, 1), (2, 3, 4, 4), (1, 2, 4, 4, 3)])
def test_what_is_no_rgb_is_refused(shape):
    with pytest.raises(ValueError, match=r"x has shape \(.*give RGB pixels"):
        kc.preprocess_input(np.zeros(shape))


def test_pictures_lists_and_data_sets_are_scaled_too(tmp_path):
    expected = kc.preprocess_input(PIXELS[0].astype("uint8"))
    picture = Image.fromarray(PIXELS[0].astype("uint8"))
    for given in (picture, PIXELS[0].tolist()):
        np.testing.assert_array_equal(kc.preprocess_input(given), expected)
    picture.save(tmp_path / "a.png")
    files = tf.data.Dataset.from_tensors(str(tmp_path / "a.png")).map(tf.io.read_file)
    (scaled,) = files.map(tf.io.decode_png).map(kc.preprocess_input)  # its channels are not known
    np.testing.assert_allclose(scaled, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"call x\.set_shape first"):
        files.map(tf.io.decode_image).map(kc.preprocess_input)


def test_the_models_own_scaling_is_the_same():
    arguments = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 2, "input_shape": (5, 4, 3), "classes": 4}
    inside, outside = kc.ConvMixer(**arguments, include_preprocessing=True), kc.ConvMixer(**arguments)
    outside.set_weights(inside.get_weights())
    np.testing.assert_allclose(inside(PIXELS), outside(kc.preprocess_input(PIXELS)), atol=1e-6)


def test_predictions_get_names():
    predictions = np.zeros((2, 1000), "float32")
    predictions[0, [2, 281, 0]] = 0.2, 0.5, 0.3
    predictions[1, 999] = 1
    first, second = kc.decode_predictions(predictions, top=3)
    assert first == [
        ("n02123045", "tabby", np.float32(0.5)),
        ("n01440764", "tench", np.float32(0.3)),
        ("n01484850", "great_white_shark", np.float32(0.2)),
    ]
    assert second[0] == ("n15075141", "toilet_tissue", 1.0)
    assert kc.decode_predictions(keras.ops.convert_to_tensor(predictions), top=1) == [first[:1], second[:1]]
    assert len(kc.decode_predictions(predictions)[0]) == 5


@pytest.mark.parametrize("shape", [(1000,), (2, 999), (1, 2, 1000)])
def test_predictions_of_other_classes_are_refused(shape):
    with pytest.raises(ValueError, match=r"preds has shape .*give \[batch, 1000\]"):
        kc.decode_predictions(np.zeros(shape))


def test_no_name_is_no_answer():
    with pytest.raises(ValueError, match="top=0"):
        kc.decode_predictions(np.zeros((1, 1000)), top=0)


def test_the_classes_are_imagenets():
    ids, names = zip(*class_names(), strict=True)
    assert len(set(ids)) == len(ids) == 1000
    assert list(ids) == sorted(ids)  # the order of every published model's outputs
    assert all(name and name == name.strip() and " " not in name for name in names)
    assert len(set(names)) == 998  # "crane" and "maillot" are two classes each


@pytest.mark.peer
def test_timm_names_the_classes_likewise(tmp_path):
    peers.run_timm("write_imagenet_names", path=tmp_path / "names.txt")
    theirs = [line.split("\t") for line in (tmp_path / "names.txt").read_text().splitlines()]
    assert [(wnid, lemmas.split(",")[0].replace(" ", "_")) for wnid, lemmas in theirs] == list(class_names())


def test_the_photographs_names_are_the_classes_names():
    if not PHOTOGRAPHS.is_dir():
        pytest.skip("the photographs are not beside this checkout")
    photographs = [(path.parent.name, path.stem) for path in PHOTOGRAPHS.glob("*/*")]
    assert len(photographs) == 64
    assert set(photographs) <= set(class_names())


@pytest.fixture
def pictures(tmp_path):
    """Photographs where they are at hand, and made pictures of awkward sizes."""
    random = np.random.RandomState(0)
    paths = sorted(PHOTOGRAPHS.glob("*/*")) if PHOTOGRAPHS.is_dir() else []
    for width, height in ((640, 427), (97, 300), (233, 233), (224, 224), (300, 180)):
        coarse = Image.fromarray(random.randint(0, 256, (9, 7, 3)).astype("uint8"))
        paths.append(tmp_path / f"{width}x{height}.png")
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


@pytest.mark.peer
def test_evaluation_images_are_timms(pictures, tmp_path):
    """The issue asks for a mean difference under 1 of 255; it is none but float32's."""
    peers.run_timm("write_transformed", folder=tmp_path, pictures=pictures, size=224)
    evaluation = kc.Preprocessing(224, 224, crop_fraction=0.96)
    for picture in pictures:
        theirs = np.load(tmp_path / f"{picture.stem}.npy")
        ours = kc.preprocess_input(evaluation.load(picture))
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=picture.name)


def test_evaluation_images_are_pillows(pictures):
    """Cut out and resized by Pillow in one step, from the same box: under 1 of 255 on average."""
    evaluation = kc.Preprocessing(224, 224, crop_fraction=0.96)
    for picture in pictures:
        image = Image.open(picture).convert("RGB")
        width, height = (side * 233 // min(image.size) for side in image.size)
        left, top = round((width - 224) / 2), round((height - 224) / 2)
        scale_x, scale_y = image.width / width, image.height / height
        box = (left * scale_x, top * scale_y, (left + 224) * scale_x, (top + 224) * scale_y)
        theirs = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box), "float32")
        assert np.abs(theirs - evaluation.load(picture)).mean() < 1, picture.name
