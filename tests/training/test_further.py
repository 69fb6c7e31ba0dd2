"""Data for training a run's model further, and images to evaluate it on."""

import numpy as np
import pytest
from PIL import Image

import keras_convmixer as kc
from keras_convmixer.training import RECIPES
from keras_convmixer.training.further import load_further_training
from keras_convmixer.training.runs.evaluation_images import load_evaluation_images
from keras_convmixer.training.runs.run import Run

DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def run():
    model = kc.ConvMixer(8, 1, kernel_size=3, patch_size=4, input_shape=(16, 16, 3), classes=10)
    return Run(model, RECIPES["digits"].replace(mixup_alpha=0.2), DIGITS)


def test_epochs_of_the_runs_own_data_in_other_batches(run):
    training = load_further_training(run, "digits", epochs=2, batch_size=100)
    assert training.steps == 2 * (1257 // 100)
    images, labels = next(iter(training.batches()))
    assert images.shape == (100, 16, 16, 3)
    assert labels.shape == (100, 10)
    assert np.any((labels.numpy() > 0) & (labels.numpy() < 1)), "mixup is the run's own and stays"
    assert load_further_training(run, "digits", epochs=2, steps=7).steps == 7


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"epochs": 0}, "epochs=0: give more than 0"),
        ({"epochs": 1, "batch_size": 0}, "batch_size=0: give more than 0"),
        ({"epochs": 1, "batch_size": 2000}, "batch_size=2000 is more than the 1257 training images"),
    ],
)
def test_numbers_that_do_not_fit_are_named(run, numbers, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load_further_training(run, "digits", **numbers)


def test_a_run_is_evaluated_on_test_images_and_on_all_of_another_folder(run, tmp_path):
    test = load_evaluation_images(run, "digits")
    assert (len(test.split), test.described) == (360, "the 360 test images of digits")
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        Image.new("RGB", (16, 16), (20 * label, 0, 0)).save(tmp_path / str(label) / "a.png")
    every = load_evaluation_images(run, str(tmp_path))
    assert every.described == f"all 10 images of {tmp_path}"
    assert every.class_names == DIGITS


def test_data_with_other_labels_than_the_model_is_refused(run, tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / label / "a.png")
    unlabelled = Run(run.model, None, None)
    with pytest.raises(ValueError, match="has 2 labels, and the model has 10 classes: write the label of each class"):
        load_evaluation_images(unlabelled, str(tmp_path))
