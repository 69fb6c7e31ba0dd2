"""Write timm's model as ONNX, float32 and static int8: `python onnx_files.py WEIGHTS.safetensors CALIBRATION.npy`.

Prints {"ENGINE:FORM": file} of every peer that is installed.
"""

import importlib.util
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import timm_model
import torch
from run_engine import as_pytorch


def export(weights: Path, size: int) -> Path:
    """Write a float32 .onnx file for one image."""
    path = weights.with_name("timm.onnx")
    torch.onnx.export(
        timm_model.load(weights), (torch.zeros(1, 3, size, size),), str(path), dynamo=True, external_data=False
    )
    return path


def quantize(path: Path, calibration: np.ndarray) -> Path:
    """Write ONNX Runtime's static int8 form: weights by channel, activations uint8 from calibration images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static, shape_inference

    class Images(CalibrationDataReader):
        def __init__(self):
            self._images = iter(calibration.astype("float32"))

        def get_next(self):
            image = next(self._images, None)
            return None if image is None else {name: as_pytorch(image[None])}

    import onnx

    prepared, quantized = path.with_name("prepared.onnx"), path.with_name("timm_int8.onnx")
    name = onnx.load(path).graph.input[0].name
    shape_inference.quant_pre_process(str(path), str(prepared))
    quantize_static(
        str(prepared),
        str(quantized),
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return quantized


def main() -> None:
    """Write the files."""
    weights, calibration = Path(sys.argv[1]), np.load(sys.argv[2])
    written = {"torch:float32": weights, "torch.compile:float32": weights}
    with redirect_stdout(sys.stderr):
        if importlib.util.find_spec("onnxscript"):
            path = export(weights, calibration.shape[1])
            if importlib.util.find_spec("openvino"):
                written["openvino:float32"] = path
            if importlib.util.find_spec("onnxruntime"):
                written["onnxruntime:float32"] = path
                written["onnxruntime:static int8"] = quantize(path, calibration)
    print(json.dumps({key: str(path) for key, path in written.items()}))


if __name__ == "__main__":
    main()
