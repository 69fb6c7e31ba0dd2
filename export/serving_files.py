"""The files beside a SavedModel that start TF Serving with it: models, batching, monitoring, docker compose."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = "serving"
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
# Requests that wait together are run together. All images of signature serving_default must then be of one size, or
# the requests of a batch fail together; signature encoded takes pictures of any size.
max_batch_size { value: 32 }
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
# docker compose up, in this folder; then POST pictures to http://localhost:8501/v1/models/NAME:predict as
# {"signature_name": "encoded", "instances": [{"b64": "..."}]}
services:
  tf-serving:
    image: tensorflow/serving:${TF_SERVING_VERSION:-latest}
    ports:
      - "8500:8500" # gRPC
      - "8501:8501" # REST
    volumes:
      - ../saved_model:/models/NAME:ro
      - .:/config:ro
    command:
      - --model_config_file=/config/models.config
      - --monitoring_config_file=/config/monitoring.config
      - --enable_batching=true
      - --batching_parameters_file=/config/batching.config
""",
}


def write_serving_files(bundle: Path, model_name: str) -> None:
    """Write models.config, batching.config, monitoring.config and docker-compose.yaml into BUNDLE/serving."""
    folder = bundle / FOLDER
    folder.mkdir()
    for name, text in _FILES.items():
        (folder / name).write_text(text.replace("NAME", served_name(model_name)), encoding="utf-8")


def served_name(model_name: str) -> str:
    """Return a model's name as it may stand in an address."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", model_name).strip("_.") or "model"
