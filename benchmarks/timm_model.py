"""timm's ConvMixer with weights of ours, for processes without TensorFlow."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

# A torchvision built for CUDA fails on import beside a PyTorch for the CPU unless these two are there to be described.
_library = torch.library.Library("torchvision", "FRAGMENT")
for _operator in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _operator):
        _library.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from timm.models.convmixer import ConvMixer  # noqa: E402

ACTIVATIONS = {"gelu": torch.nn.GELU, "relu": torch.nn.ReLU}


def load(weights: Path) -> torch.nn.Module:
    """Build the model whose arguments lie beside a .safetensors file, as .json, and load the file into it."""
    arguments = json.loads(Path(weights).with_suffix(".json").read_text())
    model = ConvMixer(act_layer=ACTIVATIONS[arguments.pop("activation")], **arguments).eval()
    model.load_state_dict(load_file(weights), strict=True)
    return model
