"""The files beside a SavedModel that start TF Serving with it: models, batching, monitoring, docker compose."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = "serving"
VERSION = "2.21.0"
"""Tag of the image tensorflow/serving: of the newest TensorFlow that exports are tested with; it reads older ones."""
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
# For servers with a GPU whose clients all send images of one size, or picture files to signature encoded: requests that
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
# docker compose up, in this folder; then POST pictures to http://localhost:8501/v1/models/NAME:predict as
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


def write_serving_files(bundle: Path, model_name: str) -> None:
    """Write models.config, batching.config, monitoring.config and docker-compose.yaml into BUNDLE/serving."""
    folder = bundle / FOLDER
    folder.mkdir()
    for name, text in _FILES.items():
        text = text.replace("NAME", served_name(model_name)).replace("VERSION}", f"{VERSION}}}")
        (folder / name).write_text(text, encoding="utf-8")


def served_name(model_name: str) -> str:
    """Return a model's name as it may stand in an address."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", model_name).strip("_.") or "model"
