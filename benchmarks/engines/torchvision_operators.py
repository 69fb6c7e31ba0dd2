"""Import this before timm: it makes torchvision importable beside a PyTorch that it was not built for.

A torchvision built for CUDA cannot load its operators beside a PyTorch for CPUs, and then fails on import because it
describes these two. They are declared here without an implementation: nothing of ours calls them.
"""

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for _operator in ("nms", "qnms"):
        _library.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
