import json
import re

import frozen
import keras
import numpy as np
import peers
import pytest
from PIL import Image
from processes import convmixer
from safetensors.numpy import load_file, save_file

import keras_convmixer as kc
from keras_convmixer.commands import models
from keras_convmixer.commands.command_line import in_options, option_names
from keras_convmixer.weights.conversion import convert
from keras_convmixer.weights.conversion_files import source_file

EXPECTED = np.load(frozen.FILE)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(frozen.tensors("even_gelu"), path)
    return path


def test_the_architecture_is_read_off_the_shapes(tmp_path, file):
    convert(file, tmp_path / "model.keras", image_size=32, scaled_input=True)
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.input_shape == (None, 32, 32, 3)
    same = kc.ConvMixer(**frozen.arguments("even_gelu"), classes=frozen.CLASSES, input_shape=(32, 32, 3), weights=file)
    images = np.random.RandomState(2).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(model(images), same(images), atol=1e-6)
    logits = kc.ConvMixer(
        **frozen.arguments("even_gelu"),
        classes=frozen.CLASSES,
        input_shape=(None, None, 3),
        classifier_activation=None,
        weights=tmp_path / "model.keras",
    )
    np.testing.assert_allclose(logits(frozen.images("even_gelu")), EXPECTED["even_gelu"], atol=1e-4)


def test_a_converted_model_takes_pixels_unless_asked_otherwise(tmp_path, file):
    pixels = np.random.RandomState(2).randint(0, 256, (2, 32, 32, 3)).astype("float32")
    with_scaling = convert(file, tmp_path / "a.keras", image_size=32)
    without = convert(file, tmp_path / "b.keras", image_size=32, scaled_input=True)
    np.testing.assert_allclose(with_scaling(pixels), without(kc.preprocess_input(pixels)), atol=1e-5)


def test_there_and_back_keeps_every_bit(tmp_path, file):
    convert(file, tmp_path / "model.keras")
    convert(tmp_path / "model.keras", tmp_path / "back.safetensors")
    convert(tmp_path / "back.safetensors", tmp_path / "again.safetensors")
    for name in ("back", "again"):
        back = load_file(tmp_path / f"{name}.safetensors")
        for tensor_name, tensor in frozen.tensors("even_gelu").items():
            np.testing.assert_array_equal(back[tensor_name], tensor)


@pytest.mark.peer
def test_the_references_files_convert(tmp_path):
    torch = peers.import_torch()
    peer = peers.reference_convmixer(8, 2, 5, 3, classes=4)
    torch.save({"state_dict": peer.state_dict()}, tmp_path / "reference.pth.tar")
    model = convert(tmp_path / "reference.pth.tar", tmp_path / "model.keras", image_size=20, scaled_input=True)
    images = peers.images_of(20, 20)
    expected = torch.softmax(torch.tensor(peers.logits_of(peer, images)), -1)
    np.testing.assert_allclose(model(images), expected, atol=1e-5)


def test_a_body_converts_to_a_body(tmp_path):
    body = {name: tensor for name, tensor in frozen.tensors("odd_relu").items() if not name.startswith("head.")}
    save_file(body, tmp_path / "body.safetensors")
    model = convert(tmp_path / "body.safetensors", tmp_path / "body.keras", image_size=16)
    assert model.output_shape == (None, 8, 8, 8)


def flat(dim, depth, kernel_size, patch_size, classes=1000):
    """Weights of these sizes, by timm's names, all alike."""
    shapes = {"stem.0": (dim, 3, patch_size, patch_size), "stem.2": (dim,), "head": (classes, dim)}
    for block in range(depth):
        shapes |= {f"blocks.{block}.0.fn.0": (dim, 1, kernel_size, kernel_size), f"blocks.{block}.1": (dim, dim, 1, 1)}
        shapes |= {f"blocks.{block}.0.fn.2": (dim,), f"blocks.{block}.3": (dim,)}
    tensors = {}
    for name, shape in shapes.items():
        tensors |= {f"{name}.weight": np.full(shape, 0.01, "float32"), f"{name}.bias": np.zeros(shape[0], "float32")}
        if len(shape) == 1:
            tensors |= {f"{name}.running_mean": np.zeros(shape, "float32")}
            tensors |= {f"{name}.running_var": np.ones(shape, "float32")}
    return tensors


@pytest.mark.slow
def test_the_activation_is_the_published_variants_the_files_or_the_one_given(tmp_path, file, caplog):
    def activation(*arguments):
        return convert(*arguments).get_layer("stem_activation").activation.__name__

    assert activation(file, tmp_path / "a.keras") == "gelu"
    assert "model.safetensors does not say its activation: gelu is assumed" in caplog.text
    caplog.clear()
    assert activation(file, tmp_path / "relu.safetensors", "relu") == "relu"
    assert activation(tmp_path / "relu.safetensors", tmp_path / "b.keras") == "relu"
    assert caplog.messages == []
    save_file(flat(768, 32, 7, 7), tmp_path / "published.safetensors")
    assert activation(tmp_path / "published.safetensors", tmp_path / "c.keras") == "relu"
    save_file(flat(768, 32, 7, 7, classes=5), tmp_path / "fine_tuned.safetensors")
    assert activation(tmp_path / "fine_tuned.safetensors", tmp_path / "d.keras") == "relu"
    save_file(flat(768, 32, 3, 14), tmp_path / "unpublished.safetensors")
    assert activation(tmp_path / "unpublished.safetensors", tmp_path / "e.keras") == "relu"
    assert caplog.messages == []
    assert activation(tmp_path / "fine_tuned.safetensors", tmp_path / "c.keras", "gelu") == "gelu"
    assert "the sizes of published weights, which were trained with activation='relu'" in caplog.text


def test_the_image_size_is_the_variants(tmp_path):
    save_file(flat(256, 8, 5, 2, classes=10), tmp_path / "cifar.safetensors")
    assert convert(tmp_path / "cifar.safetensors", tmp_path / "cifar.keras").input_shape == (None, 32, 32, 3)


def test_images_of_other_channels(tmp_path):
    grey = {**frozen.tensors("odd_relu"), "stem.0.weight": np.ones((8, 1, 2, 2), "float32")}
    save_file(grey, tmp_path / "grey.safetensors")
    model = convert(tmp_path / "grey.safetensors", tmp_path / "grey.keras", image_size=16, scaled_input=True)
    assert model.input_shape == (None, 16, 16, 1)
    convert(tmp_path / "grey.safetensors", tmp_path / "same.safetensors")
    with pytest.raises(ValueError, match=r"images of 1 channels, .*: set scaled_input") as error:
        convert(tmp_path / "grey.safetensors", tmp_path / "grey.keras", image_size=16)
    assert ": set --scaled-input," in in_options(str(error.value), option_names(models.convert))


@pytest.mark.parametrize(
    ("source", "out", "arguments", "words"),
    [
        ("model.safetensors", "out.pth", {}, "out.pth must end in .keras, for Keras, or in .safetensors"),
        ("foreign.safetensors", "out.keras", {}, "does not hold a whole ConvMixer"),
        ("broken.safetensors", "out.keras", {}, "broken.safetensors is a text file"),
        ("broken.keras", "out.safetensors", {}, "broken.keras is a text file"),
        ("other.keras", "out.safetensors", {}, "does not hold a ConvMixer"),
        ("model.safetensors", "out.keras", {"image_size": 2}, "patch_size=3 is larger than the 2x2 image"),
        ("model.safetensors", "out.keras", {"image_size": 0}, "image_size=0: give the side of the images in pixels"),
        ("model.weights.h5", "out.keras", {}, "model.weights.h5 is a text file"),
        ("model.h5", "out.keras", {}, "ends in"),
        ("other.keras", "out.keras", {}, "is a Keras model already"),
        ("other.keras", "out.safetensors", {"activation": "relu"}, "is a Keras model already"),
        ("model.safetensors", "out.safetensors", {"image_size": 32}, "out.safetensors will hold weights only"),
        ("model.safetensors", "out.safetensors", {"scaled_input": True}, "will hold weights only"),
        ("out.safetensors", "out.safetensors", {}, "out.safetensors would be converted into itself"),
    ],
)
def test_what_cannot_be_converted_leaves_what_was_there(tmp_path, file, source, out, arguments, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file({"a": np.zeros(3, "float32")}, "foreign.safetensors")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save("other.keras")
    for broken in ("broken.safetensors", "broken.keras", "model.weights.h5", "model.h5", out):
        (tmp_path / broken).write_text("before")
    with pytest.raises(ValueError, match=re.escape(words)):
        convert(source, out, **arguments)
    assert (tmp_path / out).read_text() == "before"


def test_a_variant_without_published_weights_is_refused():
    with pytest.raises(ValueError, match="for ConvMixer512_16: they exist for ConvMixer1536"):
        source_file("ConvMixer512_16")


def test_a_name_that_is_nothing_is_answered_with_those_that_are():
    with pytest.raises(ValueError, match=r"convmixer768_32 is neither a file nor a variant.*ConvMixer768_32"):
        source_file("convmixer768_32")


def test_a_run_folder_is_its_model(tmp_path):
    (tmp_path / "model.keras").touch()
    assert source_file(str(tmp_path)) == tmp_path / "model.keras"


def test_where_nothing_can_be_written_nothing_is_read(tmp_path, monkeypatch):
    (tmp_path / "folder.keras").mkdir()
    monkeypatch.setattr("keras_convmixer.weights.conversion.read_checkpoint", None)
    with pytest.raises(FileNotFoundError, match="there is no such folder: make it first"):
        convert("a.safetensors", tmp_path / "nowhere" / "a.keras")
    with pytest.raises(IsADirectoryError, match="is a folder: name a file"):
        convert("a.safetensors", tmp_path / "folder.keras")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="may not be written to"):
        convert("a.safetensors", tmp_path / "a.keras")


def test_writing_that_fails_leaves_what_was_there(tmp_path, file, monkeypatch):
    (tmp_path / "model.keras").write_text("before")

    def fail(model, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        convert(file, tmp_path / "model.keras")
    assert (tmp_path / "model.keras").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras", "model.safetensors"}


@pytest.mark.parametrize("name", ["nothing.safetensors", "nothing.pth.tar", "nothing.keras"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"{name}: there is no such file"):
        source_file(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match=f"{name}: there is no such file"):
        convert(tmp_path / name, tmp_path / "out.safetensors")


def test_the_command_says_what_it_made(tmp_path, file):
    process = convmixer("convert", file, "model.keras", "--image-size", "32", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    for words in ("model.keras", "gelu", "32 x 32 x 3", "11", "pixels 0..255"):
        assert words in process.stdout
    assert (
        process.stderr == "model.safetensors does not say its activation: gelu is assumed; give it if it is another\n"
    )
    assert keras.saving.load_model(tmp_path / "model.keras").layers[1].name == "preprocessing"
    process = convmixer("convert", file, "a.keras", "--activation", "relu", "--scaled-input", cwd=tmp_path)
    assert "relu" in process.stdout
    assert "what preprocess_input returns" in process.stdout
    assert process.stderr == ""
    scaled = keras.saving.load_model(tmp_path / "a.keras")
    assert scaled.layers[1].name == "stem_conv"
    assert scaled.get_layer("stem_activation").activation.__name__ == "relu"
    process = convmixer("convert", "model.keras", "back.safetensors", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "back.safetensors").is_file()


def test_an_imagenet_model_is_evaluated_on_folders_of_its_ids(tmp_path):
    model = kc.ConvMixer(**frozen.arguments("odd_relu"), include_preprocessing=True, input_shape=(16, 16, 3))
    head = model.get_layer("head_dense")
    weights, bias = head.get_weights()
    bias[283] = 100  # always a Persian cat
    head.set_weights([weights, bias])
    model.save(tmp_path / "imagenet.keras")
    for wordnet_id in ("n01440764", "n02123394"):
        (tmp_path / "data" / wordnet_id).mkdir(parents=True)
        Image.new("RGB", (20, 20), "red").save(tmp_path / "data" / wordnet_id / "a.png")
    process = convmixer("evaluate", "imagenet.keras", "--data", "data", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "50.00%" in process.stdout
    assert re.search(r"n02123394 │ +50.0% │ +100.0%", process.stdout)
    assert "n01443537" not in process.stdout  # no images of it
    (tmp_path / "data" / "n01440764").rename(tmp_path / "data" / "fish")
    process = convmixer("evaluate", "imagenet.keras", "--data", "data", cwd=tmp_path)
    assert process.returncode == 1
    assert "data has 2 labels, and the model has 1000 classes: write the label of each class" in process.stderr


def test_a_converted_model_is_visualized(tmp_path, file):
    convert(file, tmp_path / "model.keras", image_size=32)
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 50, 3)).astype("uint8")).save(tmp_path / "a.png")
    process = convmixer("visualize", "model.keras", "a.png", "--out", "pictures", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    names = {"patch_embedding.png", "depthwise_kernels.png", "receptive_field.png", "grad_cam.png"}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == names
    for name in names:
        assert min(Image.open(tmp_path / "pictures" / name).size) > 200
        assert f"pictures/{name}" in process.stdout
    body = kc.ConvMixer(**frozen.arguments("odd_relu"), include_top=False, input_shape=(16, 16, 3))
    body.save(tmp_path / "body.keras")
    process = convmixer("visualize", "body.keras", "a.png", "--out", "body", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert {path.name for path in (tmp_path / "body").iterdir()} == names - {"grad_cam.png"}
    process = convmixer("visualize", "model.keras", "--out", "kernels", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "kernels").iterdir()} == {"patch_embedding.png", "depthwise_kernels.png"}


def test_the_commands_table_is_the_librarys():
    shown = json.loads(convmixer("variants", "--json", blocked=("tensorflow", "keras")).stdout)
    assert list(shown) == list(kc.VARIANTS)
    for name, variant in kc.VARIANTS.items():
        assert shown[name]["parameters"] == variant.parameters
        assert shown[name]["gmacs"] == variant.gmacs
        assert shown[name]["source"] == variant.source
    table = convmixer("variants", blocked=("tensorflow", "keras")).stdout
    for name, variant in kc.VARIANTS.items():
        (line,) = [line for line in table.splitlines() if f" {name} " in line]
        assert f" {variant.parameters / 1e6:.2f} " in line
        assert f" {variant.gmacs:.2f} " in line
        assert f" {variant.top1:.2f} " in line
        assert variant.source in table
        assert f" {variant.kernel_size} " in line
        assert f" {variant.patch_size} " in line
        assert f" {variant.activation} " in line
        assert (" yes " in line) == bool(variant.weights)
