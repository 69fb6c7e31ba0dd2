"""Write models of timm as .tflite files: `python timm_litert_files.py FOLDER MODEL ...`.

For an environment with timm and litert-torch, which asks for older packages than ours (`make benchmark-models` makes
it). Files are float32, dynamic int8 and static int8 by the recipes of litert-torch's own quantizer; they take pixels
0..255, float32 `[1, height, width, 3]`, and return logits. Weights are random ones, as time does not depend on them.
Prints a line of JSON for each model.
"""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
import torchvision_operators  # noqa: F401 - before timm

import litert_torch  # isort: skip
import timm
from ai_edge_quantizer import quantizer, recipe

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class OnPixels(torch.nn.Module):
    """A model of timm on pixels 0..255, channels last."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(MEAN).reshape(3, 1, 1) * 255)
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(3, 1, 1) * 255)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the logits of pixels, float32 `[batch, height, width, 3]`."""
        return self.model((pixels.permute(0, 3, 1, 2) - self.mean) / self.deviation)


def build(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """Build a model of random weights, and an image of its size."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():  # some heads begin as zeros, and answer every image alike
            torch.nn.init.normal_(parameter, std=0.02)
    size = model.pretrained_cfg["input_size"][-1]
    model = OnPixels(model).train()
    image = torch.randint(0, 256, (1, size, size, 3)).float()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # one batch's statistics, without which values grow from layer to layer
            torch.nn.init.ones_(module.weight)  # ResNets' branches begin as zeros, and the converter leaves them out
    with torch.no_grad():
        model(image.repeat(2, 1, 1, 1) * torch.rand(2, size, size, 3))
    return model.eval(), image


def quantize(path: Path, image: np.ndarray) -> None:
    """Write the two int8 files beside a float32 one; `image` sets the static one's ranges."""
    for form, chosen in (("dynamic_int8", recipe.dynamic_wi8_afp32()), ("static_int8", recipe.static_wi8_ai8())):
        quantization = quantizer.Quantizer(str(path))
        quantization.load_quantization_recipe(chosen)
        ranges = quantization.calibrate({"serving_default": [{"args_0": image}]}) if "static" in form else None
        path.with_name(f"{path.stem}_{form}.tflite").write_bytes(quantization.quantize(ranges).quantized_model)


def main() -> None:
    """Write the files."""
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        path = folder / f"{name}.tflite"
        with redirect_stdout(sys.stderr):  # what libraries print is no answer
            model, image = build(name)
            converted = litert_torch.convert(model, (image,))
            converted.export(str(path))
            with torch.inference_mode():
                expected = model(image).numpy()
            difference = np.abs(np.asarray(converted(image.numpy())) - expected).max() / np.ptp(expected)
            quantize(path, image.numpy())
        described = {
            "name": name,
            "size": image.shape[1],
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "difference": float(difference),  # of a logit from PyTorch's, as a share of their range
        }
        print(json.dumps(described), flush=True)


if __name__ == "__main__":
    main()
