"""Models beside ConvMixer, and the accuracy on ImageNet that others reported for each: nobody measured it here.

ConvMixer's paper compares with ResNets, DeiT, ResMLP, ViT and MLP-Mixer (table 1 and figure 1); ConvNeXt and
MobileNetV4 are what a team that ships an app would take today.
"""

from typing import NamedTuple

TIMM = "timm's results-imagenet.csv"


class Reported(NamedTuple):
    """A model's accuracy as reported."""

    label: str
    accuracy: float
    """Percent of ImageNet's 50,000 validation images, at the image size that is timed here."""
    source: str
    weights: str


MODELS = {
    "ConvMixer1536_20": Reported("ConvMixer-1536/20", 81.362, TIMM, "convmixer_1536_20.in1k"),
    "ConvMixer768_32": Reported("ConvMixer-768/32", 80.168, TIMM, "convmixer_768_32.in1k"),
    "ConvMixer1024_20": Reported("ConvMixer-1024/20", 76.936, TIMM, "convmixer_1024_20_ks9_p14.in1k"),
    "ConvNeXtTiny": Reported("ConvNeXt-T", 82.1, "ConvNeXt's paper, table 1", "convnext_tiny_1k_224"),
    "resnet50": Reported("ResNet-50", 80.850, TIMM, "resnet50.tv2_in1k"),
    "resnet152": Reported("ResNet-152", 82.288, TIMM, "resnet152.tv2_in1k"),
    "deit_small_patch16_224": Reported("DeiT-S", 79.844, TIMM, "deit_small_patch16_224.fb_in1k"),
    "deit_base_patch16_224": Reported("DeiT-B", 81.992, TIMM, "deit_base_patch16_224.fb_in1k"),
    "vit_base_patch16_224": Reported("ViT-B/16", 79.154, TIMM, "vit_base_patch16_224.augreg_in1k"),
    "mixer_b16_224": Reported("MLP-Mixer-B/16", 76.602, TIMM, "mixer_b16_224.goog_in21k_ft_in1k"),
    "resmlp_24_224": Reported("ResMLP-24", 79.374, TIMM, "resmlp_24_224.fb_in1k"),
    "mobilenetv4_conv_medium": Reported(
        "MobileNetV4-M", 79.928, "its model card on the Hugging Face hub", "mobilenetv4_conv_medium.e500_r256_in1k"
    ),
}
