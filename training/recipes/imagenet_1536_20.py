"""ImageNet: ConvMixer-1536/20, the largest published.

- Command: convmixer train imagenet_1536_20 --data-dir FOLDER
- Accuracy: 81.37 % of the 50,000 validation images, reported by the reference; not measured here
- Cost: the authors trained for nine days on ten RTX 8000
- Data: tensorflow-datasets' imagenet2012, from the archives that image-net.org gives to registered people:
  `python -c "import tensorflow_datasets as tfds; tfds.builder('imagenet2012').download_and_prepare(
  download_config=tfds.download.DownloadConfig(manual_dir='FOLDER'))"`; or --dataset FOLDER with train and val in it
- Source: the command in README of locuslab/convmixer, run by timm's train.py. Differences: a batch is
  640 images over all GPUs, there 64 on each of ten GPUs with normalization statistics of its own; RandAugment resamples
  bilinearly, there bicubically too; mixup mixes the images of a pair, there those of the batch and the reversed batch
"""

from ..recipe import AugmentationConfig, DataConfig, ModelConfig, OptimizationConfig, Recipe

RECIPE = Recipe(
    name="imagenet_1536_20",
    model=ModelConfig(image_size=224, dim=1536, depth=20, kernel_size=9, patch_size=7),
    data=DataConfig(dataset="imagenet2012", crop_fraction=0.96),
    augmentation=AugmentationConfig(
        crop_scale=0.08,
        crop_ratio=4 / 3,
        flip=True,
        rand_augment="timm",
        rand_augment_magnitude_std=0.5,
        erasing_probability=0.25,
        mixup_alpha=0.5,
        cutmix_alpha=0.5,
        label_smoothing=0.1,
    ),
    optimization=OptimizationConfig(epochs=150, batch_size=640, learning_rate=0.01, weight_decay=2e-5),
)
