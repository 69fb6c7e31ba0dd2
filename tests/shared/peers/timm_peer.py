"""What timm does, each function for a process without TensorFlow; results go to files."""

import json
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from peers import images_of, logits_of, randomized
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[3] / "benchmarks/engines"))
import torchvision_operators  # noqa: F401 - before timm
from timm.data import ImageNetInfo, create_transform, resolve_data_config
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.models import create_model
from timm.models.convmixer import ConvMixer

ACTIVATIONS = {"gelu": torch.nn.GELU, "relu": torch.nn.ReLU}


def _build(activation, classes, sizes, seed=0):
    return randomized(lambda: ConvMixer(**sizes, num_classes=classes, act_layer=ACTIVATIONS[activation]), seed)


def write_weights_and_logits(folder, cases):
    """For each case make timm's model with random weights; write CASE.safetensors and its logits, CASE.npz by size."""
    for case, (activation, classes, sizes, image_sizes) in cases.items():
        model = _build(activation, classes, sizes)
        save_file(model.state_dict(), Path(folder) / f"{case}.safetensors")
        logits = {f"{height}x{width}": logits_of(model, images_of(height, width)) for height, width in image_sizes}
        np.savez(Path(folder) / f"{case}.npz", **logits)


def write_logits_of_ours(folder, cases):
    """For each case load our CASE.ours.safetensors into timm's model, strictly; write its logits, CASE.ours.npz."""
    for case, (activation, classes, sizes, image_sizes) in cases.items():
        model = _build(activation, classes, sizes, seed=1)
        model.load_state_dict(load_file(Path(folder) / f"{case}.ours.safetensors"), strict=True)
        logits = {f"{height}x{width}": logits_of(model, images_of(height, width)) for height, width in image_sizes}
        np.savez(Path(folder) / f"{case}.ours.npz", **logits)


def write_published_architectures(path, names):
    """Write what timm itself builds by its published names: parameters, tensors' shapes, evaluation settings."""
    found = {}
    for name in names:
        with torch.device("meta"):
            model = create_model(name)
        found[name] = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "shapes": {n: list(t.shape) for n, t in model.state_dict().items() if not n.endswith("_tracked")},
            "activation": type(model.stem[1]).__name__,
            "config": {k: v for k, v in resolve_data_config(model=model).items() if k in ("crop_pct", "mean", "std")},
            "hub": model.pretrained_cfg["hf_hub_id"],
        }
    Path(path).write_text(json.dumps(found))


def write_operations(path, cases):
    """Write how many multiplications with addition PyTorch counts in a forward pass of one image, by case."""
    found = {}
    for case, (sizes, classes, size) in cases.items():
        with torch.device("meta"):
            model = ConvMixer(**sizes, num_classes=classes)
            images = torch.zeros(1, 3, size, size)
        with FlopCounterMode(display=False) as counter:
            model(images)
        found[case] = counter.get_total_flops() / 2
    Path(path).write_text(json.dumps(found))


def write_transformed(folder, pictures, size):
    """Write what timm's evaluation transform makes of picture files: NAME.npy, channels last."""
    transform = create_transform((3, size, size), crop_pct=0.96, interpolation="bicubic")
    for picture in pictures:
        tensor = transform(Image.open(picture).convert("RGB"))
        np.save(Path(folder) / f"{Path(picture).stem}.npy", tensor.permute(1, 2, 0).numpy())


def write_augmentation(path, count, size, crop):
    """Write what timm's augmentation draws: crop boxes of a picture, RandAugment's operations and strengths, and what
    share of images of `crop` x `crop` is erased.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    picture = Image.new("RGB", size)
    boxes = [RandomResizedCropAndInterpolation.get_params(picture, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(count)]
    operations, strengths = Counter(), []
    transform = rand_augment_transform("rand-m9-mstd0.5-inc1", {"translate_pct": 0.45})
    for operation in transform.ops:

        def count_operation(image, *arguments, _name=operation.name, **keywords):
            operations[_name] += 1
            return image

        def record(strength, hparams, _level=operation.level_fn):
            strengths.append(strength)
            return _level(strength, hparams) if _level else ()

        operation.aug_fn, operation.level_fn = count_operation, record
    for _ in range(count):
        transform(picture)
    erase = RandomErasing(0.25, mode="pixel", device="cpu")
    erased = [(erase(torch.full((3, crop, crop), 100.0)) != 100).any(0).float().mean().item() for _ in range(count)]
    found = {"boxes": boxes, "operations": operations, "strengths": strengths, "erased": erased}
    Path(path).write_text(json.dumps(found))


def write_imagenet_names(path):
    """Write the synset and WordNet's lemmas of each ImageNet class, in the order of the models' outputs."""
    info = ImageNetInfo("imagenet-1k")
    lines = [f"{name}\t{info.label_name_to_description(name, detailed=False)}" for name in info.label_names()]
    Path(path).write_text("\n".join(lines))


def write_frozen():
    """Write frozen.npz anew."""
    import frozen

    found = {}
    for case in frozen.CASES:
        sizes = frozen.arguments(case)
        model = _build(sizes.pop("activation"), frozen.CLASSES, sizes)
        tensors = {name: torch.tensor(tensor) for name, tensor in frozen.tensors(case).items()}
        counters = {name: t for name, t in model.state_dict().items() if name.endswith("num_batches_tracked")}
        model.load_state_dict({**tensors, **counters}, strict=True)
        found[case] = logits_of(model, frozen.images(case))
    np.savez(frozen.FILE, **found)


def write_head_biases(path, checkpoints):
    """Write `head.bias` as timm reads it from each checkpoint."""
    from timm.models import load_state_dict

    np.save(path, [load_state_dict(checkpoint)["head.bias"].numpy() for checkpoint in checkpoints])


def write_adapted_kernels(kernel, cases):
    """Write what timm makes of a patch embedding's kernel for RGB, for each number of channels."""
    from timm.models import adapt_input_conv

    for channels, path in cases.items():
        np.save(path, adapt_input_conv(int(channels), torch.tensor(np.load(kernel))).numpy())
