"""What int8 loses where partial sums of a depthwise kernel are rounded before they are added.

`python benchmarks/partial_sums.py MODEL.keras IMAGES.npz`: a model that returns logits for pixels 0..255, and arrays
"calibration" and "test", uint8 `[count, height, width, channels]`, with "labels" for accuracy where there are any.
"""

import tempfile
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import tyro
from engines.run_engine import litert
from on_litert import artifacts

import keras_convmixer as kc
from keras_convmixer.deployment.depthwise import pieces as depthwise
from keras_convmixer.deployment.depthwise.cover import Piece
from keras_convmixer.deployment.depthwise.cover import cover as cheapest_cover
from keras_convmixer.environment.console import print_table, silence_native_logs
from keras_convmixer.export.tflite.conversion import Conversion
from keras_convmixer.export.tflite.quantize import convert_dynamic


def whole(rows, columns) -> tuple[Piece, ...]:
    """Leave a kernel in one piece, which LiteRT runs slowly."""
    return (Piece(0, rows.taps, 0, columns.taps),)


def deployed(model: keras.Model, cover=cheapest_cover, groups: int = depthwise.GROUP_CHANNELS) -> keras.Model:
    """Deploy with another cover, or other groups of channels."""
    with mock.patch.object(depthwise, "cover", cover), mock.patch.object(depthwise, "GROUP_CHANNELS", groups):
        return kc.deploy(model, verified=False)


def main(model: tyro.conf.Positional[Path], images: tyro.conf.Positional[Path]) -> None:
    """Print errors and accuracy of each form.

    Args:
        model: .keras file.
        images: .npz file.
    """
    silence_native_logs()
    original, arrays = keras.saving.load_model(model), np.load(images)
    calibration, test = arrays["calibration"], arrays["test"]
    labels = arrays.get("labels")
    expected = original.predict(test.astype("float32"), verbose=0)
    rows = []

    def add(name, content):
        with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
            file.write(content)
            file.flush()
            _, _, logits = litert(file.name, threads=2)
            found = np.concatenate([logits(image[None]) for image in test])
        error = np.abs(found - expected) / np.ptp(expected)
        accuracy = "-" if labels is None else f"{np.mean(found.argmax(-1) == labels):.2%}"
        agreement = f"{np.mean(found.argmax(-1) == expected.argmax(-1)):.2%}"
        rows.append((name, f"{error.mean():.2%}", f"{error.max():.1%}", agreement, accuracy))

    def reverse(rows, columns):
        return tuple(reversed(cheapest_cover(rows, columns)))

    add("plain float32", artifacts.convert(original))
    add("plain int8", artifacts.convert(original, calibration))
    add("deployed int8, kernels whole", artifacts.convert(deployed(original, whole), calibration))
    add("deployed int8", artifacts.convert(deployed(original), calibration))
    add("deployed int8, smallest piece first", artifacts.convert(deployed(original, reverse), calibration))
    add("deployed int8, groups of 32 channels", artifacts.convert(deployed(original, groups=32), calibration))
    for_int8 = kc.deploy(original, "litert_int8", verified=False)
    add("litert_int8, int8", artifacts.convert(for_int8, calibration))
    for name, model in (("deployed", deployed(original)), ("litert_int8", for_int8)):
        with Conversion(model) as conversion:
            add(f"{name}, dynamic int8", convert_dynamic(conversion, calibration))
    columns = ("form", "mean error", "largest", "agreement", "accuracy")
    print_table(f"{original.name}, {len(test)} images; errors of logits, as a share of their range", columns, rows)


if __name__ == "__main__":
    tyro.cli(main)
