"""serving/README.md: its requests, sent by curl to a stand-in for TF Serving's REST API that runs the SavedModel."""

import base64
import http.server
import json
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from processes import convmixer

from keras_convmixer.export.serving.server_files import rest_answer

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")


@pytest.fixture(scope="module")
def readme(toy_bundle):
    return (toy_bundle / "serving/README.md").read_text()


def code(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def asked(toy_bundle):
    """A server like TF Serving's for one model, and the requests that it was sent: (path, content).

    An object {"b64": ...} is decoded to bytes, and a signature of one input takes instances without its name. Source:
    TF Serving's documentation of its RESTful API, "Encoding binary values" and "Request format".
    """
    signatures = tf.saved_model.load(str(toy_bundle / "saved_model/1")).signatures
    requests = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, content))
            instances = [base64.b64decode(instance["b64"], validate=True) for instance in content["instances"]]
            outputs = signatures[content["signature_name"]](images=tf.constant(instances))
            answer = {"predictions": rest_answer({name: values.numpy() for name, values in outputs.items()})}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, requests
        server.shutdown()


def run(command, port, folder):
    assert "http://localhost:8501/" in command
    command = command.replace("localhost:8501", f"127.0.0.1:{port}").replace("curl ", "curl --silent --noproxy '*' ")
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=folder, timeout=60)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)["predictions"]


def test_the_example_gets_the_answer_that_is_shown(toy_bundle, readme, asked, tmp_path):
    port, requests = asked
    start, example, _ = code(readme, "sh")
    assert start == "docker compose up\n"
    (found,) = run(example, port, tmp_path)
    models = (toy_bundle / "serving/models.config").read_text()
    (name,) = re.findall(r'name: "(.*)"', models)
    ((path, content),) = requests
    assert path == f"/v1/models/{name}:predict"
    assert content["signature_name"] == "encoded"
    (shown,) = json.loads(*code(readme, "json"))["predictions"]
    assert list(shown) == ["classes", "names", "probabilities"]
    assert (found["classes"], found["names"]) == (shown["classes"], shown["names"])
    np.testing.assert_allclose(found["probabilities"], shown["probabilities"], atol=6e-4)


def test_a_photo_gets_the_labels_that_predict_gives(toy_bundle, toy, readme, asked, tmp_path):
    Image.fromarray(toy.test_images[2]).resize((8, 8)).save(tmp_path / "photo.jpg", "PNG")  # by content, not by name
    (found,) = run(code(readme, "sh")[2], asked[0], tmp_path)
    process = convmixer("predict", toy_bundle, tmp_path / "photo.jpg", "--json")
    expected = json.loads(process.stdout)["predictions"]
    assert found["names"] == [prediction["label"] for prediction in expected]
    best = found["probabilities"][found["classes"][0]]
    assert best == pytest.approx(expected[0]["probability"], abs=1e-4)


def test_its_table_has_every_file_of_the_folder(toy_bundle, readme):
    files = {path.name for path in (toy_bundle / "serving").iterdir()} - {"README.md"}
    assert files == set(re.findall(r"^\| ([a-z-]+\.(?:config|yaml)) \|", readme, re.MULTILINE))
    compose = (toy_bundle / "serving/docker-compose.yaml").read_text()
    for variable in re.findall(r"`(TF_SERVING_\w+)`", readme):
        assert f"${{{variable}:-" in compose
    (version,) = re.findall(r"tensorflow/serving:([\d.]+)`", readme)
    assert f"TF_SERVING_VERSION:-{version}}}" in compose
