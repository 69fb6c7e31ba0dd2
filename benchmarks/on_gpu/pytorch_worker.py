"""The GPU benchmark's process on PyTorch: timm's ConvMixers, eager and compiled, NCHW and channels last, autocast."""

import os
import sys
import time
from pathlib import Path

import torch
from tasks import answer_tasks, median_seconds, read_clocks

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks/

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _wait(_):
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def model(
    mode: str,
    memory: str,
    direction: str,
    batch: int,
    image: int,
    dtype: str,
    activation: str,
    classes: int = 1000,
    **sizes,
) -> dict:
    """Time inference or a training step (clipping, AdamW) of timm's model."""
    import engines.torchvision_operators  # noqa: F401 - before timm
    from timm.models.convmixer import ConvMixer

    torch.manual_seed(0)
    torch._dynamo.reset()
    act = {"gelu": torch.nn.GELU, "relu": torch.nn.ReLU}[activation]
    network = ConvMixer(num_classes=classes, act_layer=act, **sizes)
    memory_format = torch.channels_last if memory == "nhwc" else torch.contiguous_format
    network = network.to(DEVICE, memory_format=memory_format)
    images = torch.randn(batch, 3, image, image).to(DEVICE, memory_format=memory_format)
    labels = torch.randint(0, classes, (batch,)).to(DEVICE)
    autocast = torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16")
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    forward = torch.compile(network) if mode == "compiled" else network
    started = time.perf_counter()
    if direction == "inference":
        network.eval()

        def run():
            with torch.inference_mode(), autocast:
                return forward(images)

        output = run()[0, :8].float().tolist()
    else:
        network.train()
        fused = {"fused": True} if DEVICE == "cuda" else {}
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.005, **fused)

        def run():
            optimizer.zero_grad(set_to_none=True)
            with autocast:
                loss = torch.nn.functional.cross_entropy(forward(images), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            return loss

        output = [run().item() for _ in range(3)]
    _wait(None)
    compiling = time.perf_counter() - started
    seconds = median_seconds(run, _wait)
    return {
        "milliseconds": seconds * 1e3,
        "images_per_second": batch / seconds,
        "compile_seconds": compiling,
        "megabytes": torch.cuda.max_memory_allocated() / 1e6 if DEVICE == "cuda" else None,
        "outputs": output,
        **read_clocks(lambda: _wait(run())),
    }


def describe() -> dict:
    """Return the device and the versions on this side."""
    import engines.torchvision_operators  # noqa: F401 - before timm
    import timm

    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    return {
        "device": name,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "cudnn": torch.backends.cudnn.version(),
    }


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "8")
    answer_tasks({"describe": describe, "model": model})
