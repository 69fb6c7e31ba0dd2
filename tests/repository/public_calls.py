# pyright: standard
"""Uses every public name as its documentation says: a type checker finds nothing wrong here. Nothing is run."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import assert_type

import keras
import numpy as np
from PIL import Image

import keras_convmixer as kc

photo = Path("photo.png")
pixels = np.zeros((32, 32, 3), np.uint8)
images = np.zeros((8, 32, 32, 3), np.uint8)
names = ("red", "green", "blue")

# The model
assert_type(kc.__version__, str)
model = kc.ConvMixer(dim=64, depth=2, kernel_size=5, patch_size=2, input_shape=(32, 32, 3), classes=3)
assert_type(model, keras.Model)
kc.ConvMixer(64, 2, activation=keras.activations.relu, input_shape=[None, None, 3], classifier_activation=None)
kc.ConvMixer(include_top=False, pooling="avg", weights=Path("model.safetensors"), input_tensor=keras.Input((64, 64, 3)))
variants: list[Callable[..., keras.Model]] = [
    *(kc.ConvMixer256_8, kc.ConvMixer512_12, kc.ConvMixer512_16, kc.ConvMixer768_32, kc.ConvMixer768_32_ks3_p14),
    *(kc.ConvMixer1024_12, kc.ConvMixer1024_16, kc.ConvMixer1024_20),
    *(kc.ConvMixer1536_20, kc.ConvMixer1536_20_ks3_p7, kc.ConvMixer1536_20_ks9_p14, kc.ConvMixer1536_24),
]
assert_type(kc.ConvMixer768_32(weights="imagenet", include_preprocessing=True), keras.Model)
row: kc.Variant = kc.VARIANTS["ConvMixer768_32"]
assert_type(row.parameters, int)
assert_type(kc.features(model), keras.Model)

# Weights, images, deployment
kc.load_weights(model, "model.safetensors")
kc.save_weights_torch(model, Path("mine.safetensors"))
preprocessing = kc.Preprocessing(32, 32, crop_fraction=0.96)
for source in (photo, "photo.png", photo.read_bytes(), pixels, Image.new("RGB", (32, 32))):
    shape: tuple[int, ...] = preprocessing.load(source).shape
preprocessing.batch([photo, pixels, Image.new("RGB", (32, 32))])
preprocessing.batch(images)
kc.preprocess_input(pixels)
for wordnet_id, name, score in kc.decode_predictions(np.zeros((1, 1000), np.float32), top=3)[0]:
    assert_type((wordnet_id, name, score), tuple[str, str, float])
assert_type(kc.deploy(model, target="litert"), keras.Model)
kc.verify(model, kc.deploy(model, target="tensorflow"))

# Training
recipe: kc.training.Recipe = kc.training.RECIPES["digits"]
dataset: kc.training.Dataset = kc.training.load_dataset("digits", preprocessing)
kc.training.load_images("photos", preprocessing)
split: kc.training.Split = dataset.test
with suppress(kc.training.Diverged, kc.training.Stopped, kc.training.Unreadable):
    kc.training.train(recipe, Path("run"))
run: kc.training.Run = kc.training.load_run(Path("run"))
evaluation: kc.training.Evaluation = kc.training.evaluate(run.model, split)
assert_type(evaluation.accuracy, float)

# Export
with suppress(kc.export.ValidationError):
    kc.export.export_bundle(model, "bundle", class_names=names, calibration_images=images, validation_images=images)
kc.export.read_manifest(Path("bundle"))
kc.export.verify_bundle(Path("bundle"))
classify = kc.export.Classifier.load("bundle", format="int8")
predictions: list[kc.export.Prediction] = classify(photo, top=3)
assert_type(classify.batch(images), list[list[kc.export.Prediction]])
timings: list[kc.export.Timing] = kc.export.benchmark(Path("bundle"), threads=(1, 2))
kc.export.draw_benchmark(Path("bundle"), timings, Path("latency.png"))
inspection: kc.export.Inspection = kc.export.inspect(Path("bundle/litert/int8.tflite"))
# Each path may be text too
kc.export.export_bundle(model, Path("b"), class_names=names, calibration_images=images, validation_images=images)
kc.export.read_manifest("bundle")
kc.export.verify_bundle("bundle")
kc.export.draw_benchmark("bundle", kc.export.benchmark("bundle"), "latency.png")
kc.export.inspect("bundle/litert/int8.tflite")
tools = (kc.export.quantization_aware, kc.export.prune, kc.export.cluster)
