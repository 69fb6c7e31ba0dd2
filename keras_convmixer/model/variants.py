"""The paper's variants of ConvMixer: a table of their architectures, and formulas for their cost."""

from dataclasses import dataclass

REFERENCE = "the reference repository"
PAPER = "the paper's tables, as reported"
ACTIVATIONS = {"gelu": "GELU", "relu": "ReLU"}


@dataclass(frozen=True)
class Variant:
    """A variant in the paper's tables: its architecture, cost and reported accuracy.

    Source: the paper's tables of results; READMEs of locuslab/convmixer and locuslab/convmixer-cifar10.

    Example:
        ```python
        variant = kc.VARIANTS["ConvMixer768_32"]
        variant.dim, variant.depth, variant.top1  # (768, 32, 80.16)
        [name for name, variant in kc.VARIANTS.items() if variant.parameters < 1e6]  # ["ConvMixer256_8"]
        ```
    """

    dim: int
    depth: int
    kernel_size: int
    patch_size: int
    top1: float
    """Reported accuracy on the data set's evaluation images, in percent."""
    source: str
    """Who reported `top1`, and the number of epochs of training if it is known."""
    activation: str = "gelu"
    dataset: str = "ImageNet"
    image_size: int = 224
    classes: int = 1000
    weights: str | None = None
    """Repository of the published weights on the Hugging Face hub."""
    revision: str | None = None
    """Commit of that repository; None for its main branch."""
    sha256: str | None = None
    """SHA-256 of the weights' file; None if it is not known: then any file of this architecture is taken."""

    @property
    def parameters(self) -> int:
        """Number of trained parameters, as PyTorch counts: without the normalizations' moving statistics."""
        return parameters(self.dim, self.depth, self.kernel_size, self.patch_size, self.classes)

    @property
    def gmacs(self) -> float:
        """Billions of multiply-accumulate operations for one image."""
        sizes = (self.dim, self.depth, self.kernel_size, self.patch_size)
        return sum(multiplications(*sizes, self.image_size, self.classes).values()) / 1e9


def parameters(dim: int, depth: int, kernel_size: int, patch_size: int, classes: int) -> int:
    """Count a ConvMixer's trained parameters: weights, biases, and the normalizations' scales and offsets."""
    stem = (3 * patch_size**2 + 1 + 2) * dim  # 1 bias, 2 of the normalization
    depthwise = (kernel_size**2 + 1 + 2) * dim
    pointwise = (dim + 1 + 2) * dim
    return stem + depth * (depthwise + pointwise) + (dim + 1) * classes


def multiplications(
    dim: int, depth: int, kernel_size: int, patch_size: int, image_size: int, classes: int
) -> dict[str, int]:
    """Count multiply-accumulate operations for one image, by kind of layer."""
    positions = (image_size // patch_size) ** 2
    return {
        "patch embedding": positions * 3 * patch_size**2 * dim,
        "depthwise": positions * depth * kernel_size**2 * dim,
        "pointwise": positions * depth * dim**2,
        "classifier": dim * classes,
    }


def _timm(name):
    """Return timm's repository of published weights on the hub."""
    return f"timm/convmixer_{name}.in1k"


# Names are ConvMixer{dim}_{depth}, as in the paper. Variants without published weights have kernel and patch size in
# their names where others have the same dim and depth.
VARIANTS = {
    "ConvMixer1536_20": Variant(1536, 20, 9, 7, 81.37, f"{REFERENCE}, 150 epochs", weights=_timm("1536_20")),
    # Commit and checksums are from the hub's pages of these files. Those of 1536/20 were not available.
    "ConvMixer768_32": Variant(
        *(768, 32, 7, 7, 80.16),
        f"{REFERENCE}, 300 epochs",
        "relu",
        weights=_timm("768_32"),
        revision="5c5dfeef480402e3f1652600b11d7e75e731a05a",
        sha256="62ed5ec91004012a90d1a1ad043c4a74724ad444c82a277a6fff10803391743b",
    ),
    "ConvMixer1024_20": Variant(
        *(1024, 20, 9, 14, 76.94),
        REFERENCE,
        weights=_timm("1024_20_ks9_p14"),
        sha256="e9ee7c2d21eadc21b1538011aedb65d8122a368c5967ff01a1a9cbbaf8cc9571",
    ),
    "ConvMixer1536_24": Variant(1536, 24, 9, 14, 80.21, PAPER),
    "ConvMixer1536_20_ks3_p7": Variant(1536, 20, 3, 7, 81.60, PAPER),
    "ConvMixer1536_20_ks9_p14": Variant(1536, 20, 9, 14, 78.92, PAPER),
    "ConvMixer1024_16": Variant(1024, 16, 9, 7, 79.45, PAPER),
    "ConvMixer1024_12": Variant(1024, 12, 8, 7, 77.75, PAPER),
    "ConvMixer512_16": Variant(512, 16, 8, 7, 73.76, REFERENCE),
    "ConvMixer512_12": Variant(512, 12, 8, 7, 72.59, PAPER),
    "ConvMixer768_32_ks3_p14": Variant(768, 32, 3, 14, 74.93, PAPER, "relu"),
    "ConvMixer256_8": Variant(
        dim=256,
        depth=8,
        kernel_size=5,
        patch_size=2,
        top1=92.60,
        source="the reference's CIFAR-10 repository, 25 epochs",
        dataset="CIFAR-10",
        image_size=32,
        classes=10,
    ),
}


def variant_of(dim: int, depth: int, kernel_size: int, patch_size: int) -> Variant | None:
    """Return the variant with these sizes, whatever the activation and number of classes; None if there is none."""
    sizes = (dim, depth, kernel_size, patch_size)
    return next((v for v in VARIANTS.values() if (v.dim, v.depth, v.kernel_size, v.patch_size) == sizes), None)


def published_names() -> str:
    """Return the names of the variants that have published weights, for a sentence."""
    return ", ".join(name for name, variant in VARIANTS.items() if variant.weights)
