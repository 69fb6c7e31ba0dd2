"""Run one file in one engine, in a process of its own: `python run_engine.py ENGINE FILE THREADS IMAGES.npy`.

Answers each line on stdin with one of JSON on stdout: "time" runs twice and gives the second run's milliseconds,
"logits" the logits of all images, "memory" the process's peak in bytes. One process for each candidate, so that no
engine's threads, caches or memory are another's; they take turns, so that a slow moment of the machine hits all.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout

import numpy as np

from keras_convmixer.environment.peak_memory import peak_memory

MEAN = np.array([0.485, 0.456, 0.406], "float32")
DEVIATION = np.array([0.229, 0.224, 0.225], "float32")


def as_pytorch(image: np.ndarray) -> np.ndarray:
    """Scale pixels 0..255 `[1, height, width, 3]` as timm does, and put channels first; not part of what is timed."""
    return np.ascontiguousarray(((image / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2), "float32")


def litert(path: str, threads: int) -> tuple[Callable, Callable, Callable]:
    """LiteRT's CPU engine, XNNPACK, on a .tflite file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def prepare(image):
        if image.shape != tuple(source["shape"]):  # pointwise convolutions alone, or another size
            image = np.random.default_rng(0).normal(size=source["shape"])
        return image.astype(source["dtype"])

    def run(image):
        interpreter.set_tensor(source["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    def logits(image):
        values = run(prepare(image)).astype("float32")
        scale, zero_point = result["quantization"]
        return (values - zero_point) * scale if scale else values

    return prepare, run, logits


def pytorch(path: str, threads: int, compiled: bool = False) -> tuple[Callable, Callable, Callable]:
    """PyTorch on timm's model, of weights in .safetensors with the model's arguments beside them."""
    import timm_model
    import torch

    torch.set_num_threads(threads)
    model = timm_model.load(path)
    model = torch.compile(model) if compiled else model

    def run(image):
        with torch.inference_mode():
            return model(image).numpy()

    def prepare(image):
        return torch.from_numpy(as_pytorch(image))

    return prepare, run, lambda image: run(prepare(image))


def onnxruntime(path: str, threads: int) -> tuple[Callable, Callable, Callable]:
    """ONNX Runtime's CPU provider on an .onnx file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image):
        return session.run(None, {name: image})[0]

    return as_pytorch, run, lambda image: run(as_pytorch(image))


def openvino(path: str, threads: int) -> tuple[Callable, Callable, Callable]:
    """OpenVINO's CPU plugin on an .onnx file, in float32 also where the processor has bfloat16."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", settings)

    def run(image):
        return model(image)[0]

    return as_pytorch, run, lambda image: run(as_pytorch(image))


ENGINES = {
    "litert": litert,
    "torch": pytorch,
    "torch.compile": lambda path, threads: pytorch(path, threads, compiled=True),
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}


def main() -> None:
    """Serve this process's standard input."""
    engine, path, threads, images = sys.argv[1:]
    with redirect_stdout(sys.stderr):  # what libraries print is no answer
        prepare, run, logits = ENGINES[engine](path, int(threads))
        images = np.load(images).astype("float32")
        image = prepare(images[:1])
        run(image)
    for line in sys.stdin:
        if line.strip() == "time":
            run(image)
            started = time.perf_counter()
            run(image)
            answer = (time.perf_counter() - started) * 1000
        elif line.strip() == "logits":
            answer = np.concatenate([logits(one[None]) for one in images]).tolist()
        else:
            answer = peak_memory()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
