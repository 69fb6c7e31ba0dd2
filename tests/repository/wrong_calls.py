# pyright: standard
"""Ten calls that are wrong: a type checker reports the line of each, marked with `# wrong`. Nothing is run."""

from pathlib import Path

import numpy as np

import keras_convmixer as kc

model = kc.ConvMixer(dim=64, depth=2)
kc.ConvMixer(dimension=64)  # wrong
kc.ConvMixer(pooling="mean")  # wrong
kc.ConvMixer768_32(kernel_size=3)  # wrong
kc.ConvMixer1536_21()  # wrong
kc.load_weights("model.safetensors", model)  # wrong
kc.deploy()  # wrong
kc.Preprocessing("224", 224)  # wrong
kc.training.train("digits")  # wrong
kc.export.export_bundle(model, Path("bundle"))  # wrong
kc.export.Classifier.load("bundle")(np.zeros((32, 32, 3), np.uint8), "five")  # wrong
