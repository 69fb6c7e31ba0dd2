"""Train on your own photos, and export what was trained.

    python examples/train_on_photos.py photos --out flowers

`photos` has a subfolder for each label, as photos/rose/1.jpg. Writes flowers/run, with the model and figures of its
training, and flowers/bundle, with the files for phones and TF Serving. A small ConvMixer is trained from scratch, in
minutes on a CPU. With --pretrained a large one starts from ImageNet's weights instead: it needs a GPU, and is far more
accurate.
"""

import argparse
from pathlib import Path

from keras_convmixer.export import Classifier, export_bundle
from keras_convmixer.training import RECIPES, load_dataset, load_run, train

CALIBRATION_IMAGES = 200


def main() -> None:
    """Train, export, and classify a photo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder with one subfolder of photos for each label")
    parser.add_argument("--out", type=Path, default=Path("photos_out"), help="folder to write")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training photos")
    parser.add_argument("--image-size", type=int, default=64, help="side of the images that the model sees, in pixels")
    parser.add_argument("--pretrained", action="store_true", help="start from ImageNet's weights, at 224 pixels")
    arguments = parser.parse_args()

    changes = {"name": "photos", "dataset": str(arguments.photos), "epochs": arguments.epochs}
    if arguments.pretrained:
        recipe = RECIPES["finetune"].replace(**changes)
    else:
        # Patches of 4 pixels: 16x16 of them in an image of 64.
        small = {"image_size": arguments.image_size, "patch_size": 4, "flip": True, "batch_size": 16}
        recipe = RECIPES["digits"].replace(**changes, **small)
    # The same command continues a training that was interrupted, and starts anew with other options.
    train(recipe, arguments.out / "run", overwrite=(arguments.out / "run" / "model.keras").exists())

    run = load_run(arguments.out / "run")
    dataset = load_dataset(recipe.data.dataset, run.preprocessing, run.class_names)
    manifest = export_bundle(
        run.model,
        arguments.out / "bundle",
        class_names=run.class_names,
        # Every n-th training image: they are sorted by label.
        calibration_images=dataset.train.images[:: len(dataset.train) // CALIBRATION_IMAGES + 1],
        validation_images=dataset.test.images[:],  # uint8 [count, height, width, 3]
        validation_labels=dataset.test.labels,
        crop_fraction=run.preprocessing.crop_fraction,
    )
    for artifact in manifest["artifacts"]:
        print(f"{artifact['name']:>12}: {artifact['validation']['accuracy']:.1%} of the test photos right")
    for artifact in manifest["rejected"]:  # falls short of the Keras model
        print(f"{artifact['name']:>12}: not published, {artifact['reason']}")

    photo = next(path for path in sorted(arguments.photos.rglob("*.*")) if path.is_file())
    best, *_ = Classifier.load(arguments.out / "bundle")(photo)
    print(f"{photo}: {best.label} ({best.probability:.0%})")


if __name__ == "__main__":
    main()
