import pytest
from processes import convmixer

import keras_convmixer as kc
from keras_convmixer.training import RECIPES
from keras_convmixer.training.plan import DEVICES, MEASURED, Work, _measured_images, data_size, plan


@pytest.mark.parametrize("name", ["imagenet_1536_20", "imagenet_768_32", "imagenet_1024_20"])
def test_parameters_and_operations_are_the_variants(name):
    work = Work.of(RECIPES[name].model, 1000)
    variant = kc.VARIANTS[f"ConvMixer{name.removeprefix('imagenet_')}"]
    assert work.parameters == variant.parameters
    assert work.forward_operations == pytest.approx(2e9 * variant.gmacs, rel=0.01)


def test_more_devices_are_faster_and_a_host_costs_its_network():
    recipe = RECIPES["imagenet_1536_20"].replace(batch_size=1024)
    one, eight, hosts = (
        plan(recipe, 1_281_167, 1000, gpus, hosts, DEVICES["h200"]) for gpus, hosts in ((1, 1), (8, 1), (8, 4))
    )
    assert one.hours / 8 < eight.hours < one.hours / 6
    assert eight.hours / 4 < hosts.hours < eight.hours
    assert hosts.share == 32
    assert "sum over hosts" in hosts.step_seconds
    assert one.memory["activations"] == pytest.approx(8 * eight.memory["activations"])
    assert one.fitting_share == eight.fitting_share < one.share  # 1,024 at once do not fit
    # The authors took nine days for 150 epochs on ten RTX 8000.
    authors = plan(RECIPES["imagenet_1536_20"], 1_281_167, 1000, 10, 1, DEVICES["rtx8000"])
    assert 9 * 24 / 2.5 < authors.hours < 9 * 24 * 2.5


def test_no_more_is_measured_here_than_memory_holds():
    work = Work.of(RECIPES["imagenet_1536_20"].model, 1000)
    images = _measured_images(work, 640)
    assert 1 < images < 640
    assert images * 2 * 4 * work.layer_numbers < MEASURED  # the inputs of two layers are a part of it
    assert _measured_images(Work.of(RECIPES["digits"].model, 10), 64) == 64


def test_a_batch_that_cannot_be_divided_is_named():
    with pytest.raises(ValueError, match="batch_size=640 cannot be divided among 12 replicas: give a multiple of 12"):
        plan(RECIPES["imagenet_1536_20"], 1000, 10, 4, 3, DEVICES["a100"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", "10", "--classes", "3"), "--images 10: give the batch's 32 or more"),
        (("--images", "-5", "--classes", "3"), "--images -5: give the batch's 32 or more"),
        (("--images", "100", "--classes", "1"), "--classes 1: give 2 or more"),
    ],
)
def test_a_data_set_that_no_run_takes_is_refused(options, message):
    process = convmixer("plan", "finetune", "--device", "t4", *options)
    assert process.returncode == 2
    assert message in process.stderr


def test_the_size_of_a_data_set_is_known_or_given():
    assert data_size(RECIPES["digits"]) == (1257, 10)
    assert data_size(RECIPES["digits"], images=5000) == (5000, 10)
    for recipe, numbers, message in (
        (RECIPES["digits"], {"images": 63}, "images=63: give the batch's 64 or more"),
        (RECIPES["digits"], {"classes": 1}, "classes=1: give 2 or more"),
        (RECIPES["finetune"], {"images": 5000}, "dataset='FOLDER' is of unknown size"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            data_size(recipe, **numbers)
