import functools
import http.server
import io
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from PIL import Image
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.config import model_server_config_pb2

from keras_convmixer import ConvMixer
from keras_convmixer.export import export_bundle, read_manifest, verify_bundle
from keras_convmixer.export.serving import signatures as serving
from keras_convmixer.export.serving.server_files import served_name
from keras_convmixer.export.serving.signatures import with_features, write_serving_model
from keras_convmixer.images.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def served(toy_bundle):
    return tf.saved_model.load(str(toy_bundle / "saved_model/1"))


def encoded(image, format="PNG", **options):
    with io.BytesIO() as file:
        Image.fromarray(image).save(file, format, **options)
        return file.getvalue()


def test_names_are_those_of_the_most_probable_classes(toy, served):
    answer = served.signatures["serving_default"](images=tf.constant(toy.test_images))
    order = np.argsort(-answer["probabilities"].numpy(), axis=-1, kind="stable")
    np.testing.assert_array_equal(answer["classes"], order)
    expected = np.array([b"red", b"green", b"blue"], object)[order]
    np.testing.assert_array_equal(answer["names"].numpy(), expected)


def photograph(height, width, seed=0):
    """Smooth and coloured, 0..255, with an edge."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).copy()
    image[: height // 3, width // 2 :] = 255
    return image


@pytest.fixture(scope="module")
def seen_by(tmp_path_factory):
    """A function that writes a model whose features are the pixels that it sees, and returns its signature."""

    @functools.cache
    def load(preprocessing):
        path = tmp_path_factory.mktemp("seen") / "1"
        images = keras.Input((preprocessing.height, preprocessing.width, preprocessing.channels))
        flat = keras.layers.Flatten()(images)
        model = keras.Model(images, keras.layers.Dense(2, "softmax")(flat))
        write_serving_model(with_features(model), path, "seen", ("a", "b"), preprocessing)
        loaded = tf.saved_model.load(str(path))
        shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
        return lambda image: loaded.signatures["features"](images=image[None])["features"].numpy().reshape(shape)

    return load


def test_images_of_the_models_size_are_taken_as_prepared(seen_by):
    image = photograph(32, 32)
    np.testing.assert_array_equal(seen_by(Preprocessing(32, 32, crop_fraction=0.9))(image), image)


@pytest.mark.parametrize("crop_fraction", [1.0, 0.9])
@pytest.mark.parametrize("size", [(300, 200), (201, 300), (23, 41), (35, 35)])
def test_images_of_any_size_are_prepared_as_everywhere(seen_by, crop_fraction, size):
    preprocessing = Preprocessing(32, 32, crop_fraction=crop_fraction)
    image = photograph(*size)
    expected = preprocessing.apply(Image.fromarray(image)).astype(float)
    difference = np.abs(seen_by(preprocessing)(image) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_files_are_answered_as_their_pixels(toy, served):
    files = tf.constant([encoded(image) for image in toy.test_images])
    expected = served.signatures["serving_default"](images=tf.constant(toy.test_images))
    answer = served.signatures["encoded"](images=files)
    np.testing.assert_allclose(answer["probabilities"], expected["probabilities"], atol=1e-6)
    np.testing.assert_array_equal(answer["names"].numpy(), expected["names"].numpy())


def test_a_damaged_file_fails_alone(toy, served):
    whole = encoded(photograph(40, 60), "JPEG", quality=95)
    answer = served.signatures["encoded"](images=tf.constant([whole, b"", b"not a picture", whole[:300], whole]))
    readable = answer["probabilities"].numpy().sum(-1)
    np.testing.assert_allclose(readable, [1, 0, 0, 0, 1], atol=1e-5)
    assert (answer["classes"].numpy()[1:4] == -1).all()
    assert (answer["names"].numpy()[1:4] == b"").all()


def test_transparent_pngs_lie_on_white_and_grey_ones_are_grey(served):
    nothing = np.zeros((8, 8, 4), np.uint8)
    white, grey = np.full((8, 8, 3), 255, np.uint8), np.full((8, 8), 90, np.uint8)
    classify = served.signatures["encoded"]
    pairs = (nothing, white), (grey, np.repeat(grey[..., None], 3, -1))
    for one, other in pairs:
        answer = classify(images=tf.constant([encoded(one), encoded(other)]))["probabilities"].numpy()
        np.testing.assert_allclose(answer[0], answer[1], atol=1e-6)


def test_features_are_what_the_dense_layer_sees(toy, served):
    head = toy.model.layers[-1]
    features = served.signatures["features"](images=tf.constant(toy.test_images))["features"]
    logits = features @ head.kernel + head.bias
    expected = toy.model(toy.test_images.astype("float32"), training=False)
    np.testing.assert_allclose(tf.nn.softmax(logits), expected, atol=1e-5)


def test_each_signature_is_traced_once(toy, tmp_path, monkeypatch):
    traced = []
    prepare = serving.prepare_files
    monkeypatch.setattr(serving, "prepare_files", lambda *arguments: traced.append(1) or prepare(*arguments))
    write_serving_model(toy.model, tmp_path / "1", "toy", ("a", "b", "c"), Preprocessing(8, 8))
    assert len(traced) == 1


@pytest.mark.slow
def test_grey_models_take_files_too(tmp_path):
    keras.utils.set_random_seed(0)
    model = ConvMixer(4, 1, kernel_size=3, patch_size=2, input_shape=(8, 8, 1), classes=2)
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
    arguments = {"class_names": ("a", "b"), "calibration_images": images[:3], "validation_images": images[3:]}
    export_bundle(model, tmp_path / "grey", **arguments, formats=("float32",), verbose=False)
    verify_bundle(tmp_path / "grey")


def test_warm_up_requests_are_of_every_signature_and_run(toy_bundle, served):
    found = {}
    path = toy_bundle / "saved_model/1/assets.extra/tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(path)):
        request = PredictionLog.FromString(record.numpy()).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        if request.model_spec.signature_name != "encoded":
            np.testing.assert_array_equal(inputs["images"], np.full((len(inputs["images"]), 8, 8, 3), 128, np.uint8))
            # As TF Serving reads a request: by TensorFlow's own parser.
            parsed = tf.io.parse_tensor(request.inputs["images"].SerializeToString(), tf.uint8)
            np.testing.assert_array_equal(parsed, inputs["images"])
        answer = served.signatures[request.model_spec.signature_name](**inputs)
        assert all(len(values) == len(inputs["images"]) for values in answer.values())
        if request.model_spec.signature_name == "encoded":
            assert (answer["classes"].numpy() >= 0).all()
        found.setdefault(request.model_spec.signature_name, []).append(len(inputs["images"]))
    assert found == {name: [1, 8] for name in ("serving_default", "encoded", "prepared", "features")}
    assert path.stat().st_size < 10_000  # files, and pixels as one value


def test_the_signature_for_converters_answers_alike_without_what_they_lack(toy, served):
    prepared = served.signatures["prepared"]
    expected = served.signatures["serving_default"](images=tf.constant(toy.test_images))["probabilities"]
    answer = prepared(images=tf.constant(toy.test_images))
    assert list(answer) == ["probabilities"]
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=0, atol=1e-6)
    graph = prepared.graph.as_graph_def()
    (called,) = (node.attr["f"].func.name for node in graph.node if node.op == "StatefulPartitionedCall")
    (body,) = (function for function in graph.library.function if function.signature.name == called)
    operators = {node.op for node in body.node_def}
    assert "Erf" in operators
    # Neither texts, nor branches, nor resizing.
    assert operators <= {
        *("AddV2", "BiasAdd", "Cast", "Const", "Conv2D", "DepthwiseConv2dNative", "Erf", "Identity", "MatMul"),
        *("Mean", "Mul", "NoOp", "ReadVariableOp", "RealDiv", "Reshape", "Rsqrt", "Softmax", "Squeeze", "Sub"),
    }


@pytest.mark.peer
def test_openvino_reads_the_signature_for_converters(toy, served):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is a peer: make test-peers")
    model = openvino.convert_model(served.signatures["prepared"])
    run = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = served.signatures["serving_default"](images=tf.constant(toy.test_images))["probabilities"]
    np.testing.assert_allclose(run([toy.test_images])[run.output(0)], expected, rtol=0, atol=1e-5)


def test_the_models_configuration_parses_by_servings_own_protocol(toy_bundle):
    folder = toy_bundle / "serving"
    models = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((folder / "models.config").read_text(), models)
    (model,) = models.model_config_list.config
    compose = (folder / "docker-compose.yaml").read_text()
    assert f"../saved_model:{model.base_path}:ro" in compose
    assert model.base_path == f"/models/{model.name}"
    for name in ("models.config", "monitoring.config", "batching.config"):
        assert f"/config/{name}" in compose
        assert (folder / name).is_file()


def test_compose_starts_a_pinned_server_for_this_machine_alone(toy_bundle):
    text = (toy_bundle / "serving/docker-compose.yaml").read_text()
    (service,) = yaml.safe_load(text)["services"].values()
    assert re.fullmatch(r"tensorflow/serving:\$\{TF_SERVING_VERSION:-\d+\.\d+\.\d+\}", service["image"])
    assert service["ports"] == [f"${{TF_SERVING_ADDRESS:-127.0.0.1}}:{port}:{port}" for port in (8500, 8501)]
    assert service["restart"] == "unless-stopped"
    assert service["mem_limit"] == "${TF_SERVING_MEMORY:-4g}"
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    # Batched, requests of different image sizes would fail together.
    assert not [flag for flag in service["command"] if "batching" in flag]
    mounted = {Path(flag.partition("=")[2]).name for flag in service["command"]}
    assert mounted == {"models.config", "monitoring.config"}


@pytest.mark.parametrize(("state", "healthy"), [("AVAILABLE", True), ("LOADING", False)])
def test_the_health_check_asks_for_the_models_state(toy_bundle, state, healthy):
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"model_version_status": [{"version": "1", "state": state}]}).encode())

        def log_message(self, *_):
            pass

    (service,) = yaml.safe_load((toy_bundle / "serving/docker-compose.yaml").read_text())["services"].values()
    kind, *command = service["healthcheck"]["test"]
    assert kind == "CMD"
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            *command, script = command
            script = script.replace("/8501", f"/{server.server_port}")
            assert (subprocess.run([*command, script], timeout=30).returncode == 0) == healthy
        finally:
            server.shutdown()
    (name,) = {model.name for model in served_models(toy_bundle)}
    assert asked == [f"/v1/models/{name}"]


def served_models(bundle):
    models = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((bundle / "serving/models.config").read_text(), models)
    return models.model_config_list.config


def test_batches_of_64_and_more_images_are_allowed(toy, toy_bundle, served):
    """The message is not in TF Serving's Python package; source: session_bundle_config.proto, BatchingParameters."""
    file = descriptor_pb2.FileDescriptorProto(name="batching.proto", package="batching", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    message = file.message_type.add(name="BatchingParameters")
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    for number, name in enumerate(names, 1):
        kind = {"type": 11, "label": 1, "type_name": ".google.protobuf.Int64Value"}
        message.field.add(name=name, number=number, **kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    found = message_factory.GetMessageClass(pool.FindMessageTypeByName("batching.BatchingParameters"))()
    text_format.Parse((toy_bundle / "serving/batching.config").read_text(), found, descriptor_pool=pool)
    assert found.max_batch_size.value == 64
    assert found.batch_timeout_micros.value == 2000
    images = np.resize(toy.test_images, (65, 8, 8, 3))
    together = served.signatures["serving_default"](images=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(
        together[:60],
        served.signatures["serving_default"](images=tf.constant(toy.test_images))["probabilities"],
        atol=1e-6,
    )


@pytest.mark.parametrize(("name", "served"), [("ConvMixer-8/2", "ConvMixer-8_2"), ("über", "ber"), ("..", "model")])
def test_names_fit_into_an_address(name, served):
    assert served_name(name) == served


@pytest.mark.slow
def test_the_next_export_is_the_next_version_and_old_ones_stay(toy, tmp_path):
    out = tmp_path / "bundle"
    for version in (1, 2):
        manifest = toy.republish(out, formats=(), class_names=tuple(f"{version} {c}" for c in "abc"))
        assert manifest["artifacts"][0]["path"] == f"saved_model/{version}"
    verify_bundle(out)
    for version in (1, 2):
        loaded = tf.saved_model.load(str(out / f"saved_model/{version}"))
        names = loaded.signatures["serving_default"](images=tf.constant(toy.test_images[:1]))["names"].numpy()
        assert {name[:2] for name in names[0]} == {f"{version} ".encode()}
    shutil.rmtree(out / "saved_model/1")  # old versions are their users' to delete
    assert toy.republish(out, formats=())["artifacts"][0]["version"] == 3
    assert {path.name for path in (out / "saved_model").iterdir()} == {"2", "3"}
    assert read_manifest(out)["artifacts"][0]["signatures"]["features"]["outputs"][0]["name"] == "features"
