"""timm's ConvMixer with weights of ours, for processes without TensorFlow."""

import json
from pathlib import Path

import torch
import torchvision_operators  # noqa: F401 - before timm
from safetensors.torch import load_file
from timm.models.convmixer import ConvMixer

ACTIVATIONS = {"gelu": torch.nn.GELU, "relu": torch.nn.ReLU}


def load(weights: Path) -> torch.nn.Module:
    """Build the model whose arguments lie beside a .safetensors file, as .json, and load the file into it."""
    arguments = json.loads(Path(weights).with_suffix(".json").read_text())
    model = ConvMixer(act_layer=ACTIVATIONS[arguments.pop("activation")], **arguments).eval()
    model.load_state_dict(load_file(weights), strict=True)
    return model
