"""`weights="imagenet"` from a hub cache that the test lays out; nothing here goes online."""

import errno
import hashlib
import http.server
import json
import os
import re
import threading
from typing import ClassVar

import numpy as np
import peers
import pytest
from hub_cache import PATCH, lay_out, random_tensors
from processes import run_forked

import keras_convmixer as kc
from keras_convmixer.weights.published import fetch

NAME = "ConvMixer1024_20"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    cache = tmp_path_factory.mktemp("hub")
    variant = kc.VARIANTS[NAME]
    lay_out(cache, variant.weights, random_tensors(variant))
    return cache


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def from_cache(cache, offline, monkeypatch, publish):
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    publish(next(cache.rglob("blobs/*")))


LOAD = """
model = getattr(kc, sys.argv[1])(weights="imagenet", **json.loads(sys.argv[2]))
weights = {layer.name: [float(w.reshape(-1)[-1]) for w in layer.get_weights()] for layer in model.layers}
print(json.dumps([weights, model.output_shape]))
"""


def load(name=NAME, **arguments):
    return run_forked(PATCH + LOAD, name, json.dumps(arguments))


@pytest.fixture
def publish(monkeypatch):
    """A function that makes the file at a path the published one, of a revision or none."""

    def publish(path, revision=None):
        facts = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "revision": revision}
        monkeypatch.setenv("VARIANTS", json.dumps({NAME: facts}))

    return publish


def test_imagenet_means_the_published_file_in_the_hubs_cache(from_cache):
    process = load()
    assert process.returncode == 0, process.stderr
    weights, shape = json.loads(process.stdout.splitlines()[-1])
    assert shape == [None, 1000]
    tensors = random_tensors(kc.VARIANTS[NAME])
    # The last number of each tensor is the same in both layouts.
    for layer, module in {
        "stem_conv": "stem.0",
        "block_19_pointwise_conv": "blocks.19.1",
        "head_dense": "head",
    }.items():
        assert weights[layer] == [float(tensors[f"{module}.{part}"].flat[-1]) for part in ("weight", "bias")]
    parts = ("weight", "bias", "running_mean", "running_var")
    assert weights["block_7_depthwise_bn"] == [float(tensors[f"blocks.7.0.fn.2.{part}"][-1]) for part in parts]


def test_another_class_count_keeps_the_body_and_says_so(from_cache):
    process = load(classes=10)
    assert "head.weight [1000, 1024] and head.bias [1000] left out, as the model has 10 classes" in process.stderr
    weights, shape = json.loads(process.stdout.splitlines()[-1])
    assert shape == [None, 10]
    assert weights["stem_conv"][1] == float(random_tensors(kc.VARIANTS[NAME])["stem.0.bias"][-1])


def test_grey_images_take_them_too(from_cache):
    process = load(input_shape=[28, 28, 1], classes=1000)
    assert process.returncode == 0, process.stderr
    assert "weights of the patch embedding for 1 channels are summed over RGB, as in timm" in process.stderr
    weights, _ = json.loads(process.stdout.splitlines()[-1])
    kernel = random_tensors(kc.VARIANTS[NAME])["stem.0.weight"]
    assert weights["stem_conv"][0] == pytest.approx(kernel[-1, :, -1, -1].sum(), abs=1e-6)


def test_the_command_converts_them_by_name(from_cache, tmp_path):
    command = "from keras_convmixer.__main__ import main\nsys.argv[0] = 'convmixer'\nmain()"
    process = run_forked(PATCH + command, "convert", NAME, tmp_path / "model.keras")
    assert process.returncode == 0, process.stderr
    assert "224 x 224 x 3" in process.stdout
    assert f"{kc.VARIANTS[NAME].parameters:,}" in process.stdout
    assert (tmp_path / "model.keras").stat().st_size > 90e6


def last_line(process):
    assert process.returncode == 1
    return process.stderr.splitlines()[-1]


def test_offline_without_cache_one_sentence_says_what_to_do(offline, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    sentence = last_line(load())
    for words in (
        "timm/convmixer_1024_20_ks9_p14.in1k",
        str(tmp_path),
        "HF_HUB_OFFLINE",
        "go online once",
        "give its path",
    ):
        assert words in sentence


def test_no_connection_and_no_cache_is_said_likewise(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    soon = "import time\ntime.sleep = lambda seconds: None\n"  # between the attempts, 23 s in all
    sentence = last_line(run_forked(soon + PATCH + LOAD, NAME, "{}"))
    assert "is not in the Hugging Face cache" in sentence
    assert "HF_HUB_OFFLINE" not in sentence


def test_a_damaged_cache_is_named(offline, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    blob = lay_out(tmp_path, kc.VARIANTS[NAME].weights, {"a": np.zeros(100)})
    blob.write_bytes(blob.read_bytes()[:-9])
    sentence = last_line(load())
    assert str(blob) in sentence
    assert "damaged" in sentence
    assert "HF_HUB_OFFLINE is set" in sentence


def test_another_file_in_the_cache_is_not_believed(from_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    tensors = random_tensors(kc.VARIANTS[NAME])
    tensors["head.bias"] += 1
    blob = lay_out(tmp_path, kc.VARIANTS[NAME].weights, tensors)
    sentence = last_line(load())
    assert (
        f"is not the file that was published (SHA-256 {json.loads(os.environ['VARIANTS'])[NAME]['sha256']})" in sentence
    )
    assert str(blob) in sentence


def test_what_timm_has_in_the_cache_serves_a_pinned_revision(from_cache, cache, publish):
    """timm asks for the main branch; its snapshot is another one than the revision's, of the same file."""
    publish(next(cache.rglob("blobs/*")), revision="2" * 40)
    assert load().returncode == 0


def test_pins_are_whole():
    for variant in kc.VARIANTS.values():
        assert variant.revision is None or re.fullmatch("[0-9a-f]{40}", variant.revision)
        assert variant.sha256 is None or re.fullmatch("[0-9a-f]{64}", variant.sha256)


class Hub(http.server.SimpleHTTPRequestHandler):
    """A hub that has one file, as huggingface_hub asks for it."""

    content = b""
    paths: ClassVar = []

    def do_HEAD(self):
        self.paths.append(self.path)
        self.send_response(200)
        etag = hashlib.sha256(self.content).hexdigest()
        for name, value in {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": "1" * 40,
            "Content-Length": len(self.content),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
def test_a_damaged_cache_is_fetched_anew_where_there_is_a_hub(cache, tmp_path, monkeypatch, publish):
    published = next(cache.rglob("blobs/*"))
    publish(published, "1" * 40)
    Hub.content = published.read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        assert load().returncode == 0  # downloads it
        (blob,) = [path for path in tmp_path.rglob("blobs/*") if path.stat().st_size == len(Hub.content)]
        blob.write_bytes(Hub.content[:-9])
        process = load()
        assert process.returncode == 0, process.stderr
        assert blob.read_bytes() == Hub.content
        resolved = {path for path in Hub.paths if "resolve" in path}
        assert resolved == {f"/timm/convmixer_1024_20_ks9_p14.in1k/resolve/{'1' * 40}/model.safetensors"}
        Hub.content = Hub.content[:-4] + bytes(4)  # a file of this architecture, and another
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
        sentence = last_line(load())
        hub.shutdown()
    assert "on the hub is not the file that was published (SHA-256" in sentence


def architecture(name, **changes):
    v = kc.VARIANTS[name]
    arguments = {"dim": v.dim, "depth": v.depth, "kernel_size": v.kernel_size, "patch_size": v.patch_size}
    return {**arguments, "activation": v.activation, "weights": "imagenet", **changes}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (architecture("ConvMixer768_32", activation="gelu"), ("768/32", "activation='relu'", "'gelu'")),
        (architecture("ConvMixer1536_20", activation="relu"), ("1536/20", "activation='gelu'")),
        (architecture("ConvMixer1536_20", kernel_size=3), ("kernel_size=3", "ConvMixer1536_20, ConvMixer768_32")),
        (architecture("ConvMixer512_16"), ("dim=512", "none were published")),
        (architecture("ConvMixer768_32", classifier_activation="sigmoid"), ("'sigmoid'", "'softmax'", "None")),
    ],
)
def test_what_has_no_published_weights_is_refused_before_anything_is_fetched(arguments, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the words are checked below
        kc.ConvMixer(**arguments)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"classifier_activation": None},
        {"classifier_activation": "sigmoid", "classes": 7},
        {"include_top": False, "classifier_activation": "sigmoid"},
        {"input_shape": (224, 224, 1)},
        {"input_shape": (224, 224, 4)},
    ],
)
def test_what_has_published_weights_is_fetched(changes, monkeypatch):
    def fetch(variant):
        raise ConnectionError(f"fetching {variant.weights}")

    monkeypatch.setattr("keras_convmixer.model.convmixer.fetch", fetch)
    with pytest.raises(ConnectionError, match=r"fetching timm/convmixer_768_32\.in1k"):
        kc.ConvMixer(**architecture("ConvMixer768_32", **changes))


@pytest.mark.parametrize(("offline", "said"), [(False, "fetching model.safetensors of timm/"), (True, "")])
def test_a_download_is_said_before_it_is_tried(offline, said, monkeypatch, capsys):
    shown = []

    def download(*arguments, **options):
        shown.append(capsys.readouterr().err)
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE" if offline else "TimeoutError"):
        fetch(kc.VARIANTS[NAME])
    (line,) = shown
    assert line.startswith(said)
    assert bool(line) == bool(said)


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "no space is left on the device: free some"), (errno.EACCES, "Permission denied")],
)
def test_what_the_disk_refuses_is_not_blamed_on_the_hub(code, words, monkeypatch):
    def download(*arguments, **options):
        raise OSError(code, os.strerror(code), "cache")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(OSError, match=words) as caught:
        fetch(kc.VARIANTS[NAME])
    assert not isinstance(caught.value, ConnectionError)


@pytest.mark.peer
def test_timm_knows_the_same_published_models(tmp_path):
    published = {name: variant for name, variant in kc.VARIANTS.items() if variant.weights}
    assert len(published) == 3
    timms = {name: v.weights.removeprefix("timm/").removesuffix(".in1k") for name, v in published.items()}
    peers.run_timm("write_published_architectures", path=tmp_path / "found.json", names=list(timms.values()))
    found = json.loads((tmp_path / "found.json").read_text())
    for name, variant in published.items():
        facts = found[timms[name]]
        assert facts["parameters"] == variant.parameters
        assert facts["activation"].lower() == variant.activation
        assert facts["hub"] in (variant.weights, "timm/")
        assert facts["config"]["crop_pct"] == 0.96
        expected = {n: list(t.shape) for n, t in random_tensors(variant).items() if not n.endswith("_tracked")}
        assert facts["shapes"] == expected
