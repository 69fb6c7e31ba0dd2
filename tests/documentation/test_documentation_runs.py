"""The code of the pages, run as it is written there: a page's Python blocks and `convmixer` commands, in order.

Each page runs in a folder of its own, in which lies what its reader has: photos, data, a trained run. A command keeps
its words; where it would take long, SMALL adds options that make the model and the training small. Lines that are not
run are in NOT_RUN of test_documentation.py.
"""

import hashlib
import json
import shlex
import shutil

import frozen
import keras
import numpy as np
import peers
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hub_cache import PATCH, lay_out, random_tensors
from pages import PAGES, blocks, page_name
from PIL import Image
from processes import convmixer, run_forked
from safetensors.numpy import load_file, save_file
from test_documentation import reason_not_to_run

import keras_convmixer as kc
from keras_convmixer.export import Classifier, read_manifest

TINY = "--epochs 1 --dim 8 --depth 1 --kernel-size 3 --batch-size 16"
SMALL = {
    "convmixer export runs/digits --out digits_bundle": "--formats float32 int8",
    "convmixer export runs/pets --out pets_bundle": "--formats float32 int8",
    "convmixer export runs/quickstart --out phone_bundle": "--formats float32 int8",
    "convmixer export runs/quickstart --out served_bundle --name digits": "--formats int8",
    "convmixer export runs/pruned --out pruned_bundle": "--formats weight_int8",
    "convmixer train digits": "--epochs 4 --dim 32 --depth 1 --batch-size 32",
    "convmixer train finetune --dataset photos --name pets": "--epochs 12 --dim 8 --depth 1 --kernel-size 3 "
    "--batch-size 8 --learning-rate 0.02 --patch-size 4 --image-size 16 --weights mine.keras",
    "convmixer train digits --dataset photos --image-size 64 --name small": TINY,
    "convmixer train cifar10 --data-dir data": TINY,
    "convmixer train cifar10 --dim 128 --data-dir data --name cifar10_128": TINY.replace("--dim 8 ", ""),
    "convmixer launch --workers 2 cifar10 --data-dir data --name two_workers": TINY,
    "convmixer plan cifar10 --device here": "--dim 8",
    "convmixer qat runs/quickstart": "--steps 5",
    "convmixer compress runs/quickstart --out runs/pruned --sparsity 0.5": "--steps 5",
    "convmixer compress runs/quickstart --out runs/clustered --method cluster --clusters 16": "--steps 5",
    "convmixer benchmark phone_bundle --figure speed.png": "--seconds 0.03",
}
"""Options that are added to a command."""
PALETTE = np.array(
    [
        *([255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]),
        *([255, 0, 255], [0, 0, 0], [255, 255, 255], [128, 0, 0], [0, 0, 128]),
    ]
)


def ten_colors(count, seed, size=32):
    """Images uint8 `[count, size, size, 3]` of ten colors with noise, and the number of each color."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    pixels = PALETTE[labels][:, None, None] + random.integers(-40, 41, (count, size, size, 3))
    return np.clip(pixels, 0, 255).astype("uint8"), labels


def five_colors(count, seed):
    """A tf.data.Dataset of images 16x16 whose class is their brightest of 5 colors; pixels 0..255."""
    images, labels = ten_colors(2 * count, seed, 16)
    return tf.data.Dataset.from_tensor_slices((images[labels < 5], labels[labels < 5])).batch(8)


def save_photos(folder, names, images):
    for number, (name, image) in enumerate(zip(names, images, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name / f"{number}.png")


def prepare_cifar10(folder):
    """Ten colors in the place of CIFAR-10, as tensorflow-datasets keeps it."""
    features = {
        "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
        "label": tfds.features.ClassLabel(names=[f"color {number}" for number in range(10)]),
    }
    splits = {
        name: [
            (key, {"image": image, "label": label})
            for key, (image, label) in enumerate(zip(*ten_colors(count, seed), strict=True))
        ]
        for name, count, seed in (("train", 100, 0), ("test", 20, 1))
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        "cifar10",
        version="3.0.2",
        features=tfds.features.FeaturesDict(features),
        split_datasets=splits,
        data_dir=folder,
        disable_shuffling=True,
    )
    information = next(folder.rglob("dataset_info.json"))
    content = json.loads(information.read_text())
    content["supervisedKeys"] = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    information.write_text(json.dumps(content))


def small_convmixer(classes):
    return kc.ConvMixer(8, 1, kernel_size=3, patch_size=4, input_shape=(16, 16, 3), classes=classes)


@pytest.fixture(scope="module")
def what_readers_have(quickstart, once):
    """A folder with all that the pages' readers start with."""

    def fill(folder):
        shutil.copytree(quickstart.run, folder / "runs/quickstart")
        shutil.copy(quickstart.run / "images/7_3.png", folder / "digit.png")
        images, labels = ten_colors(600, 0, 24)
        chosen = labels < 3
        save_photos(folder / "photos", np.array(["bird", "cat", "dog"])[labels[chosen]], images[chosen])
        save_photos(folder / "imagenet", ["n01440764", "n02123394"], images[:2])
        # Named as the guide's visualize command names one.
        Image.fromarray(images[1]).save(folder / "photos/cat/0.png")
        Image.fromarray(images[2]).resize((40, 30)).save(folder / "photo.png")
        Image.fromarray(ten_colors(4, 0, 300)[0][3]).save(folder / "photo.jpg")
        prepare_cifar10(folder / "data")
        small_convmixer(10).save(folder / "mine.keras")
        save_file(frozen.tensors("odd_relu"), folder / "model.safetensors")

    return once("what_readers_have", fill)


@pytest.fixture
def reader(what_readers_have, tmp_path, monkeypatch):
    """A copy of that folder, as the current one."""
    folder = tmp_path / "reader"
    shutil.copytree(what_readers_have, folder)
    monkeypatch.chdir(folder)
    return folder


def run_page(name, names=None, run_command=convmixer):
    """Run a page's code in the current folder; return the namespace of its Python."""
    names = {"kc": kc, "__name__": "page", **(names or {})}
    (path,) = [path for path in PAGES if page_name(path) == name]
    for block in blocks(path):
        if block.language == "python":
            block.run_python(names)
        for line in block.shell_lines() if block.language == "sh" else ():
            if reason_not_to_run(line) is None:
                words = [*shlex.split(line)[1:], *shlex.split(SMALL.get(line, ""))]
                ended = run_command(*words)
                assert ended.returncode == 0, f"{block.place}: {line}\n{ended.stdout}\n{ended.stderr}"
                assert ended.stdout, f"{block.place}: {line} prints nothing"
    return names


def test_every_small_command_is_in_a_page():
    lines = {line for path in PAGES for block in blocks(path) if block.language == "sh" for line in block.shell_lines()}
    assert set(SMALL) <= lines


OTHERS = ("README.md", "docs/guides/keras.md", "docs/guides/pytorch.md", "docs/guides/own_photos.md")
"""Pages with a test of their own."""


@pytest.mark.slow
@pytest.mark.parametrize("page", [page_name(path) for path in PAGES if page_name(path) not in OTHERS])
def test_the_code_of_a_page_runs(page, reader):
    if not any(block.language in ("python", "sh") for block in blocks(reader_path(page))):
        return
    run_page(page)


def reader_path(page):
    return next(path for path in PAGES if page_name(path) == page)


@pytest.mark.slow
def test_readme(reader):
    images, labels = ten_colors(80, 0)
    names = run_page("README.md", {"images": images, "labels": labels})
    assert names["model"].count_params() == pytest.approx(kc.VARIANTS["ConvMixer256_8"].parameters, rel=0.02)
    np.testing.assert_allclose(
        names["fast"].predict(images, verbose=0), names["model"].predict(images, verbose=0), atol=1e-4
    )
    assert {"float32", "int8"} <= {
        artifact["name"] for artifact in read_manifest(reader / "digits_bundle")["artifacts"]
    }


@pytest.mark.slow
def test_my_own_photos(reader):
    run_page("docs/guides/own_photos.md")
    for name in ("model.keras", "best.keras", "recipe.json", "labels.txt", "metrics.csv", "curves.png"):
        assert (reader / "runs/pets" / name).is_file(), f"the guide says that a run keeps {name}"
    for name in ("confusion.png", "predictions.png", "summary.json"):
        assert (reader / "runs/pets" / name).is_file(), f"the guide says that a run keeps {name}"
    assert Classifier.load("pets_bundle")("photo.png")[0].label == "dog"


@pytest.mark.slow
def test_keras_code(reader, monkeypatch, caplog):
    """With a small model in the place of the published one."""
    save_file(frozen.tensors("odd_relu"), "published.safetensors")
    states = []

    def small(weights, **arguments):
        assert weights == "imagenet"
        keras.utils.set_random_seed(0)
        fine_tuned = arguments.get("classes") == 5
        size = {"input_shape": (16, 16, 3)} if fine_tuned else {}
        model = kc.ConvMixer(**frozen.arguments("odd_relu"), weights="published.safetensors", **size, **arguments)
        if fine_tuned:
            states.append(model.get_weights())
            compile, fit = model.compile, model.fit

            def compile_for_a_cpu(*args, **kwargs):
                compile(*args, **kwargs, jit_compile=False)  # as a comment on the page says

            def fit_and_keep(*args, **kwargs):
                history = fit(*args, **{**kwargs, "verbose": 0})
                states.append(model.get_weights())
                return history

            model.compile, model.fit = compile_for_a_cpu, fit_and_keep
        return model

    monkeypatch.setattr(kc, "ConvMixer768_32", small)
    images, labels = ten_colors(600, 0, 16)
    more_images, more_labels = ten_colors(100, 1, 16)
    names = {"images": images, "labels": labels, "more_images": more_images, "more_labels": more_labels}
    names |= {"names": tuple(f"color {number}" for number in range(10))}
    names |= {"train": five_colors(700, 0), "validation": five_colors(50, 1)}
    keras.utils.set_random_seed(0)
    names = run_page("docs/guides/keras.md", names)

    assert names["probabilities"].shape == (1, 1000)
    assert "head.weight [11, 8] and head.bias [11] left out, as the model has 5 classes" in caplog.text
    start, head_trained, all_trained = states
    for before, after in zip(start[:-2], head_trained[:-2], strict=True):
        np.testing.assert_array_equal(before, after)  # the body was frozen, statistics too
    assert not np.array_equal(start[-2], head_trained[-2])
    assert not np.array_equal(head_trained[0], all_trained[0])
    fine_tuned = keras.saving.load_model("fine_tuned.keras")
    statistics = next(layer for layer in fine_tuned.layers if isinstance(layer, keras.layers.BatchNormalization))
    np.testing.assert_array_equal(statistics.get_weights()[3], frozen.tensors("odd_relu")["stem.2.running_var"])
    assert fine_tuned.evaluate(names["validation"], verbose=0)[1] > 0.6  # one in five is chance

    manifest = read_manifest(reader / "bundle")
    assert [artifact["name"] for artifact in manifest["artifacts"]] == [
        *("saved_model", "float32", "float16", "dynamic", "int8")
    ]
    assert Classifier.load("bundle", "int8")("photo.jpg")[0].label == "color 3"


@pytest.mark.slow
def test_pytorch_weights(reader, monkeypatch, tmp_path):
    """With random tensors as the published weights of ConvMixer-768/32."""
    variant = kc.VARIANTS["ConvMixer768_32"]
    # Kernels of the size that trained ones have: 32 layers of larger ones overflow.
    tensors = {
        name: np.float32(0.03) * each if each.ndim == 4 else each for name, each in random_tensors(variant).items()
    }
    file = lay_out(tmp_path / "hub", variant.weights, tensors)
    # In place of the published file, whose checksum it has not.
    published = {"ConvMixer768_32": {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "revision": None}}
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("VARIANTS", json.dumps(published))
    code = PATCH + "from keras_convmixer.__main__ import main\nsys.argv[0] = 'convmixer'\nmain()\n"
    model = kc.ConvMixer(**frozen.arguments("odd_relu"), classes=frozen.CLASSES, input_shape=(16, 16, 3))
    run_page("docs/guides/pytorch.md", {"model": model}, lambda *words: run_forked(code, *words))
    written = load_file("for_timm.safetensors")
    for name, tensor in frozen.tensors("odd_relu").items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)
    assert (reader / "imagenet.keras").is_file()


@pytest.mark.slow
@pytest.mark.peer
def test_a_pytorch_file_converts(tmp_path):
    torch = peers.import_torch()
    peer = peers.reference_convmixer(8, 2, 5, 3, classes=4)
    torch.save({"state_dict": peer.state_dict()}, tmp_path / "checkpoint.pth.tar")
    lines = [line for block in blocks(reader_path("docs/guides/pytorch.md")) for line in block.shell_lines()]
    (command,) = [line for line in lines if line.startswith("convmixer convert") and ".pth.tar" in line]
    ended = convmixer(*shlex.split(command)[1:], cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert keras.saving.load_model(tmp_path / "model.keras").output_shape == (None, 4)
