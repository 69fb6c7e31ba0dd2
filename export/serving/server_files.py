"""The files beside a SavedModel that start TF Serving with it: docker compose, configurations, a README.md."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Reference
from ..report.templates import fill_template
from ..runtime.decision import BINARY
from .saved_model import OUTPUT, SavedModel

FOLDER = "serving"
VERSION = "2.21.0"
"""Tag of the Docker image tensorflow/serving: the newest TensorFlow that exports are tested with."""
EXAMPLE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mNsYIAAJgaKGAAmCACQtTEKkQAAAABJRU5ErkJggg=="
"""A grey PNG file of 8x8 pixels, as base64, for README.md."""
SHOWN = 5
"""Numbers of an output that README.md shows."""
_FILES = {
    "models.config": """\
# Which models TF Serving loads; without a version policy, the newest version in the folder.
model_config_list {
  config {
    name: "NAME"
    base_path: "/models/NAME"
    model_platform: "tensorflow"
  }
}
""",
    "batching.config": """\
# For servers with a GPU whose clients all send images of one size, or image files to signature encoded: requests that
# wait together are run together. docker-compose.yaml says how to turn it on; it is off, as
# - images of different sizes cannot become one batch: TF Serving answers all requests of such a batch with an error,
#   also those that were alike ("Tensors with name ... from different tasks have different shapes"). Its remedy,
#   pad_variable_length_inputs, fills each image up with its first value, which is then classified as part of it.
# - on a CPU, whose cores one image occupies, it gains little.
# A request of more images than max_batch_size is an error here; without batching any number is taken.
max_batch_size { value: 64 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 2 }
""",
    "monitoring.config": """\
# Metrics for Prometheus, at http://HOST:8501/monitoring/prometheus/metrics.
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
""",
    "docker-compose.yaml": """\
# docker compose up, in this folder; then POST image files to http://localhost:8501/v1/models/NAME:predict as
# {"signature_name": "encoded", "instances": [{"b64": "..."}]}
# Only this machine reaches it, as TF Serving asks nobody for a password: put what does in front of it, or, in a network
# that you trust, set TF_SERVING_ADDRESS=0.0.0.0. Batches may have any number of images, and requests any image sizes.
services:
  tf-serving:
    image: tensorflow/serving:${TF_SERVING_VERSION:-VERSION}
    restart: unless-stopped
    mem_limit: ${TF_SERVING_MEMORY:-4g}
    ports:
      - "${TF_SERVING_ADDRESS:-127.0.0.1}:8500:8500" # gRPC
      - "${TF_SERVING_ADDRESS:-127.0.0.1}:8501:8501" # REST
    volumes:
      - ../saved_model:/models/NAME:ro
      - .:/config:ro
    command:
      - --model_config_file=/config/models.config
      - --monitoring_config_file=/config/monitoring.config
      # Off, see batching.config:
      # - --enable_batching=true
      # - --batching_parameters_file=/config/batching.config
    healthcheck: # with bash, as the image has neither curl nor wget
      test:
        - CMD
        - bash
        - -c
        - >-
          exec 3<>/dev/tcp/127.0.0.1/8501 &&
          printf 'GET /v1/models/NAME HTTP/1.0\\r\\nConnection: close\\r\\n\\r\\n' >&3 &&
          grep -q '"AVAILABLE"' <&3
      interval: 10s
      timeout: 5s
      retries: 3
      start_period: 300s
""",
}


def write_serving_files(bundle: Path, reference: Reference, saved_model: SavedModel) -> None:
    """Write what starts TF Serving with a bundle's SavedModel into BUNDLE/serving, and a README.md.

    Args:
        bundle: the bundle's folder, without a folder serving.
        reference: the model's name, labels, kind and preprocessing.
        saved_model: answers the README's example.
    """
    folder = bundle / FOLDER
    folder.mkdir()
    for name, text in _FILES.items():
        text = text.replace("NAME", served_name(reference.name)).replace("VERSION}", f"{VERSION}}}")
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(_readme(reference, saved_model), encoding="utf-8")


def _readme(reference, saved_model):
    (row,) = rest_answer(saved_model.answer("encoded", [base64.b64decode(EXAMPLE)]))
    signatures = saved_model.signatures()
    # Such a model answers with the one label that it decides for, see `write_serving_model`.
    decides = reference.decision.kind == BINARY and len(reference.class_names) == 2
    names = [f"`{output['name']}`" for output in signatures["encoded"]["outputs"]]
    return fill_template(
        "serving_readme.md.jinja",
        name=served_name(reference.name),
        version=VERSION,
        example=EXAMPLE,
        answer={key: _shortened(value) for key, value in row.items()},
        shortened=any(len(value) > SHOWN for value in row.values()),
        outputs=", ".join(names),
        **{side: getattr(reference.preprocessing, side) for side in ("height", "width", "channels")},
        kind=reference.decision.kind,
        threshold=reference.decision.threshold,
        scores=len(row[OUTPUT]),
        top=len(row["names"]),
        decides=decides,
        with_present="present" in row,
        with_features="features" in signatures,
    )


def rest_answer(outputs: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return a signature's outputs, `names` among them, as TF Serving's REST API gives them: a dictionary an image.

    Example:
        ```python
        from keras_convmixer.export.serving.server_files import rest_answer

        rest_answer({"names": np.array([[b"red"]]), "classes": np.array([[0]])})  # [{"names": ["red"], "classes": [0]}]
        ```
    """
    count = len(next(iter(outputs.values())))
    rows = [{name: values[index].tolist() for name, values in outputs.items()} for index in range(count)]
    for row in rows:
        row["names"] = [name.decode() for name in row["names"]]
    return rows


def _shortened(values):
    """Return a list as JSON: its first numbers, rounded to 3 digits so that every machine writes the same file."""
    rounded = [round(value, 3) if isinstance(value, float) else value for value in values]
    text = ", ".join(json.dumps(value) for value in rounded[:SHOWN])
    return f"[{text}, ...]" if len(values) > SHOWN else f"[{text}]"


def served_name(model_name: str) -> str:
    """Return a model's name with only characters that an address may have, as "ConvMixer-8_2" of "ConvMixer-8/2"."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", model_name).strip("_.") or "model"
