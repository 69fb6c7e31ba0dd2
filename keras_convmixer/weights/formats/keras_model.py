"""Read .keras files without running code in them, and without trusting the sizes that they state for their layers."""

import functools
import math
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from ...environment.backend import keras
from ...files.archives import check_archive
from ...files.printable import first_line
from ...files.regular_files import open_file
from .keras_weights import check_datasets
from .kind import KERAS_SUFFIX, kind_of, local_path, unreadable

_WEIGHTS = "model.weights.h5"
_SLACK = 1_000_000
"""Numbers that a model's weights may have beyond those in its file, such as the states of random generators."""
_lock = threading.RLock()


def read_keras_model(path: Path) -> keras.Model:
    """Load a .keras file without its optimizer. Code in it is not run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a .keras file, is damaged, holds code or classes that plain Keras does not have, or
            describes larger layers than it has weights for.
        OSError: the file cannot be read.
    """
    path = local_path(path)
    with open_file(path, "a .keras file"):
        pass  # Keras itself calls a file that may not be read, and a damaged one, missing
    count = None
    if path.suffix == KERAS_SUFFIX:
        kind = kind_of(path)
        if kind is None or kind.suffix != KERAS_SUFFIX:
            raise unreadable(path, KERAS_SUFFIX)
        check_archive(path)
        count = _count_weights(path)
    try:
        with _at_most(count):
            return cast(keras.Model, keras.saving.load_model(path, compile=False, safe_mode=True))
    except MemoryError:
        raise
    except Exception as error:  # Keras, h5py and zipfile raise types of their own, and OSError
        reason = first_line(error)
        if "safe_mode" in str(error):  # Keras's own message advises to switch that off
            reason = "it holds code, which is not run; build the model of Keras's own layers and save it again"
        elif unknown := re.search(r"Could not locate (?:class|function) '([^']+)'", str(error)):
            reason = f"it holds {unknown[1]}, which Keras does not have; build the model of Keras's own layers"
        raise ValueError(f"{path} is not a .keras file that plain Keras can load: {reason}") from error


def _count_weights(path):
    """Return an upper bound of how many numbers the file's weights are.

    Raises:
        ValueError: the weights are damaged, or would fill the memory.
    """
    import h5py

    with zipfile.ZipFile(path) as archive:
        if _WEIGHTS not in archive.namelist():  # a very large model has its weights in several files
            return sum(entry.file_size for entry in archive.infolist())
        try:
            with archive.open(_WEIGHTS) as content, h5py.File(content, "r") as file:
                return sum(map(math.prod, check_datasets(path, file).values()))
        except MemoryError:
            raise
        except Exception as error:  # h5py raises OSError, RuntimeError, KeyError and others on damaged files
            raise ValueError(f"{path} cannot be read: {_WEIGHTS} in it: {first_line(error)}") from None


@contextmanager
def _at_most(count: int | None) -> Iterator[None]:
    """Limit the weights that this thread creates in this context to `count` numbers and some slack; None: no limit.

    Keras builds the layers of a file's description before it reads the weights, and a description of 1 kB may ask for
    layers that fill the memory.
    """
    if count is None:
        yield
        return
    thread, left = threading.get_ident(), count + _SLACK
    with _lock:  # one thread at a time, so that each restores the method that it found
        original = keras.layers.Layer.add_weight

        @functools.wraps(original)
        def add_weight(layer, shape=None, *arguments, **keywords):
            nonlocal left
            if threading.get_ident() == thread:
                left -= math.prod(shape or ())
                if left < 0:
                    raise ValueError(f"the layer {layer.name!r} asks for more weights than the file holds")
            return original(layer, shape, *arguments, **keywords)

        keras.layers.Layer.add_weight = add_weight  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
        finally:
            keras.layers.Layer.add_weight = original
