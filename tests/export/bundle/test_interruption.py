"""An export that is killed, or for which the disk is too small, leaves the former bundle or the new one, whole."""

import dataclasses
import shutil
import signal
import time

import numpy as np
import pytest
from processes import SERVER, Forked

from keras_convmixer.export import verify_bundle
from keras_convmixer.export.manifest import write_manifest
from keras_convmixer.files.atomic import atomic_folder

MOMENTS = 20
PAGE = 4096


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.8, 0.97])
def test_a_full_disk_leaves_the_former_bundle(toy, toy_bundle, small_disk, share):
    whole = sum(-(-path.stat().st_size // PAGE) * PAGE for path in toy_bundle.rglob("*") if path.is_file())
    disk = small_disk(str(int(share * whole)))
    out = disk / "bundle"
    out.mkdir()
    write_manifest(out, {})
    with pytest.raises(OSError, match="no space is left on the device: free some"):
        toy.export(out)
    assert [path.name for path in out.rglob("*")] == ["manifest.json"]
    assert [entry.name for entry in disk.iterdir()] == ["bundle"]


def export(model, images, prepared, out, told):
    """Export in a process of its own, with a prepared bundle's SavedModel and file; tell of the beginning and the end.

    What is killed is the checking and publishing; converting, which writes nothing, would take most of the time.
    """
    import keras

    from keras_convmixer.export import export_bundle, formats
    from keras_convmixer.export.serving import artifact

    content = (prepared / "litert/float32.tflite").read_bytes()
    artifact.write_serving_model = lambda model, path, *arguments: shutil.copytree(prepared / "saved_model/1", path)
    formats.FORMATS["float32"] = dataclasses.replace(formats.FORMATS["float32"], convert=lambda *arguments: content)
    model, images = keras.saving.load_model(model), np.load(images)
    told.send("ready")
    export_bundle(
        model,
        out,
        class_names=("new 1", "new 2", "new 3"),
        calibration_images=images,
        validation_images=images,
        formats=("float32",),
        verbose=False,
    )
    told.send("done")
    time.sleep(60)


@pytest.mark.slow
def test_killed_at_twenty_moments_there_is_the_former_bundle_or_the_new(toy, toy_bundle, tmp_path):
    toy.model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", toy.train_images)
    out = tmp_path / "out" / "bundle"

    def start():
        listening, told = SERVER.Pipe(duplex=False)
        arguments = tmp_path / "model.keras", tmp_path / "images.npy", toy_bundle, out, told
        forked = Forked(*arguments, function=export)
        told.close()  # so that a process that dies is noticed, not waited for
        assert listening.recv() == "ready"
        return forked, listening, time.monotonic()

    forked, listening, started = start()
    assert listening.recv() == "done"
    whole = time.monotonic() - started
    forked.process.kill()
    found = []
    for moment in range(MOMENTS):
        with atomic_folder(out) as folder:
            shutil.copytree(toy_bundle, folder, dirs_exist_ok=True)
        forked, listening, started = start()
        if moment < MOMENTS - 1:
            time.sleep(max(0.0, whole * (moment + 0.5) / (MOMENTS - 1) - (time.monotonic() - started)))
        else:
            assert listening.recv() == "done"
        forked.process.kill()
        assert forked.finished().returncode == -signal.SIGKILL
        verify_bundle(out)
        found.append((out / "labels.txt").read_text().split()[0])
    assert set(found) == {"red", "new"}
    assert found[0] == "red"
    assert found[-1] == "new"
    toy.republish(out)
    # The next export swept up what the killed ones left.
    assert [entry.name for entry in out.parent.iterdir()] == ["bundle"]
    assert (out / "labels.txt").read_text() == "red\ngreen\nblue\n"
