"""README's story of one model in Python, and its commands, run as they are written there.

A command keeps its words; where it would take long, options are added that make the model and the training small, and
FOLDER, BUNDLE, RUN and FILE.tflite get the names of what the test made. A new command in README.md runs here unasked.
"""

import hashlib
import json
import re
import shlex
import shutil

import frozen
import keras
import numpy as np
import peers
import pytest
import tensorflow_datasets as tfds
from hub_cache import PATCH, lay_out, random_tensors
from PIL import Image
from processes import convmixer, run_forked
from safetensors.numpy import load_file, save_file
from test_readme import README, code

import keras_convmixer as kc
from keras_convmixer.export import read_manifest

PALETTE = np.array(
    [
        *([255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]),
        *([255, 0, 255], [0, 0, 0], [255, 255, 255], [128, 0, 0], [0, 0, 128]),
    ]
)


def ten_colours(count, seed, size=32):
    """Images uint8 `[count, size, size, 3]` of ten colours with noise, and the number of each colour."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    pixels = PALETTE[labels][:, None, None] + random.integers(-40, 41, (count, size, size, 3))
    return np.clip(pixels, 0, 255).astype("uint8"), labels


@pytest.mark.slow
def test_a_model_is_made_trained_deployed_and_exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels = ten_colours(80, 0)
    more_images, more_labels = ten_colours(100, 1)
    story = {"images": images, "labels": labels, "more_images": more_images, "more_labels": more_labels}
    story["names"] = tuple(f"colour {number}" for number in range(10))
    Image.fromarray(more_images[3]).save("picture.png")
    keras.utils.set_random_seed(0)

    exec(compile(code("In Python"), "README.md", "exec"), story)
    model = story["model"]
    assert model.count_params() == pytest.approx(kc.VARIANTS["ConvMixer256_8"].parameters, rel=0.02)
    model.fit(images, labels, batch_size=16, epochs=5, verbose=0)  # more, so that there is something to validate
    accuracy = model.evaluate(more_images, more_labels, verbose=0)[1]
    assert accuracy > 0.9

    exec(compile(code("Deploy"), "README.md", "exec"), story)
    fast = keras.saving.load_model("fast.keras")
    np.testing.assert_allclose(fast.predict(more_images, verbose=0), model.predict(more_images, verbose=0), atol=1e-4)

    *imports_and_export, classify = re.split(r"\n(?=Classifier\.)", code("Export"))
    exec(compile("\n".join(imports_and_export), "README.md", "exec"), story)
    manifest = json.loads((tmp_path / "bundle/manifest.json").read_text())
    names = ["saved_model", "float32", "float16", "dynamic", "int8"]
    assert [artifact["name"] for artifact in manifest["artifacts"]] == names
    assert {artifact["validation"]["accuracy"] > accuracy - 0.02 for artifact in manifest["artifacts"]} == {True}
    best, *_ = eval(compile(classify.split("#")[0].strip(), "README.md", "eval"), story)
    assert best.label == "colour 3"

    save_file(frozen.tensors("odd_relu"), "model.safetensors")
    story["model"] = kc.ConvMixer(**frozen.arguments("odd_relu"), classes=frozen.CLASSES, input_shape=(16, 16, 3))
    exec(compile(code("PyTorch"), "README.md", "exec"), story)
    written = load_file("mine.safetensors")
    for name, tensor in frozen.tensors("odd_relu").items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)


def commands():
    """README's commands without comments, in its order; a command's bare name in the text is none."""
    found = re.findall(r"^(convmixer .*?)(?: +#.*)?$|`(convmixer\s[^`]*\s[^`]*)`", README, re.MULTILINE)
    return [" ".join((one or other).split()) for one, other in found]


TINY = "--epochs 1 --dim 8 --depth 1 --kernel-size 3 --batch-size 16"
SMALL = {
    "convmixer train digits": "--epochs 4 --dim 32 --depth 1 --batch-size 32",
    "convmixer train digits --dataset FOLDER --image-size 64 --name mine": TINY,
    "convmixer train cifar10 --data-dir FOLDER": TINY,
    "convmixer train cifar10 --dim 128 --data-dir FOLDER": "--epochs 1 --depth 1 --batch-size 16 --name cifar10_128",
    "convmixer train finetune --dataset FOLDER": f"{TINY} --patch-size 4 --image-size 16 --weights mine.keras",
    "convmixer launch --workers 2 cifar10 --data-dir FOLDER": f"{TINY} --name launched",
    "convmixer qat runs/digits": "--steps 10",
    "convmixer compress runs/digits --out runs/digits_pruned --sparsity 0.5": "--steps 20",
    "convmixer benchmark BUNDLE --picture speed.png": "--seconds 0.03",
}
"""Options that are added to a command."""
NAMES = {
    "RUN": "runs/quickstart",
    "BUNDLE": "digits_bundle",
    "FILE.tflite": "digits_bundle/litert/int8.tflite",
    "250": "20",
}
FOLDERS = {"--data-dir": "prepared", "--dataset": "pictures", "--data": "imagenet"}
"""What FOLDER is, by the option before it."""


def written_small(command):
    words = command.split()
    for index, word in enumerate(words):
        words[index] = FOLDERS[words[index - 1]] if word == "FOLDER" else NAMES.get(word, word)
    return [*words[1:], *shlex.split(SMALL.get(command, ""))]


def save_pictures(folder, labels, images):
    for number, (label, image) in enumerate(zip(labels, images, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{number}.png")


def prepare_cifar10(folder):
    """Ten colours in the place of CIFAR-10, as tensorflow-datasets keeps it."""
    features = {
        "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
        "label": tfds.features.ClassLabel(names=[f"colour {number}" for number in range(10)]),
    }
    splits = {
        name: [
            (key, {"image": image, "label": label})
            for key, (image, label) in enumerate(zip(*ten_colours(count, seed), strict=True))
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


COMMAND_LINE = """
from keras_convmixer.__main__ import main
sys.argv[0] = "convmixer"
main()
"""


@pytest.mark.slow
def test_every_command_does_what_it_says(quickstart, tmp_path, monkeypatch):
    shutil.copytree(quickstart.run, tmp_path / "runs/quickstart")
    shutil.copy(quickstart.run / "pictures/7_3.png", tmp_path / "digit.png")
    images, labels = ten_colours(120, 0)
    save_pictures(tmp_path / "pictures", labels, images)
    save_pictures(tmp_path / "imagenet", ["n01440764", "n02123394"], images[:2])
    prepare_cifar10(tmp_path / "prepared")
    mine = kc.ConvMixer(8, 1, kernel_size=3, patch_size=4, input_shape=(16, 16, 3), classes=10)
    mine.save(tmp_path / "mine.keras")
    variant = kc.VARIANTS["ConvMixer768_32"]
    # Kernels of the size that trained ones have: 32 layers of larger ones overflow.
    tensors = {
        name: np.float32(0.03) * each if each.ndim == 4 else each for name, each in random_tensors(variant).items()
    }
    file = lay_out(tmp_path / "hub", variant.weights, tensors)
    # In place of the published file, whose checksum it has not.
    published = {"ConvMixer768_32": {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "revision": None}}
    written = commands()
    assert set(SMALL) <= set(written), "README.md has no such command any more"
    of_pytorch = [command for command in written if ".pth.tar" in command]
    for command in written:
        if command in of_pytorch:
            continue
        words = written_small(command)
        if "ConvMixer768_32" in command:
            with monkeypatch.context() as patched:
                patched.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
                patched.setenv("VARIANTS", json.dumps(published))
                ended = run_forked(PATCH + COMMAND_LINE, *words, cwd=tmp_path)
        else:
            ended = convmixer(*words, cwd=tmp_path)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        assert ended.stdout, command

    for name in ("runs/digits/model.keras", "digits_bundle/manifest.json", "imagenet.keras", "mine.safetensors"):
        assert (tmp_path / name).is_file(), name
    for name in ("cifar10", "cifar10_128", "launched", "mine", "finetune"):
        assert (tmp_path / "runs" / name / "model.keras").is_file(), name
    assert (tmp_path / "runs/digits/qat_int8.tflite").is_file()
    quantized = {artifact["name"]: artifact for artifact in read_manifest(tmp_path / "digits_bundle")["artifacts"]}
    assert quantized["qat_int8"]["validation"]["accuracy"] > 0.97  # of the quickstart's model, in which they are real
    assert (tmp_path / "runs/digits_pruned/model.keras").is_file()
    assert (tmp_path / "bundle/manifest.json").is_file()
    assert Image.open(tmp_path / "speed.png").format == "PNG"


@pytest.mark.slow
@pytest.mark.peer
def test_a_pytorch_file_converts(tmp_path):
    torch = peers.import_torch()
    peer = peers.reference_convmixer(8, 2, 5, 3, classes=4)
    torch.save({"state_dict": peer.state_dict()}, tmp_path / "checkpoint.pth.tar")
    (command,) = [command for command in commands() if ".pth.tar" in command]
    ended = convmixer(*written_small(command), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert keras.saving.load_model(tmp_path / "model.keras").output_shape == (None, 4)
