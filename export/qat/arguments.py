"""Check the numbers of quantization-aware training, pruning and clustering, and find the former's file.

No TensorFlow: commands refuse at once.
"""

from pathlib import Path

_RANGES = {
    "steps": ("1 or more", lambda value: value >= 1),
    # Adafactor's, which is a share of each layer's weights.
    "learning_rate": ("more than 0 and less than 1", lambda value: 0 < value < 1),
    "sparsity": ("more than 0 and less than 1, such as 0.8", lambda value: 0 < value < 1),
    "clusters": ("2 or more, such as 16", lambda value: value >= 2),
}


def check_numbers(**numbers: float | None) -> None:
    """Check arguments of these names against their ranges; None is left out.

    Example:
        ```python
        from keras_convmixer.export.qat.arguments import check_numbers

        check_numbers(steps=100, sparsity=0.8, learning_rate=None)
        ```

    Raises:
        ValueError: a number is out of its range; the message names it.
    """
    for name, value in numbers.items():
        allowed, is_allowed = _RANGES[name]
        if value is not None and not is_allowed(value):
            raise ValueError(f"{name}={value}: give {allowed}")


def qat_file(model: Path) -> Path:
    """Return where quantization-aware training leaves the int8 file of a run folder, or of a .keras file."""
    return (model if model.is_dir() else model.parent) / "qat_int8.tflite"


def read_qat_file(model: Path) -> bytes:
    """Return the int8 file that quantization-aware training left beside a model.

    Raises:
        ValueError: it is not there.
    """
    file = qat_file(model)
    if not file.is_file():
        raise ValueError(f"formats=qat_int8 needs {file}, which is not there: make it with convmixer qat {model}")
    return file.read_bytes()
