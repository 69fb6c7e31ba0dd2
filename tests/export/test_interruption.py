"""An export that is killed, or for which the disk is too small, leaves the former bundle or the new one, whole."""

import shutil
import signal
import time

import numpy as np
import pytest
from processes import SERVER

from keras_convmixer.atomic import atomic_folder
from keras_convmixer.export import verify_bundle
from keras_convmixer.export.manifest import write_manifest

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


def export(model, images, out, told):
    """Export in a process of its own; tell when it begins and when it is done."""
    import keras

    from keras_convmixer.export import export_bundle

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
def test_killed_at_twenty_moments_there_is_the_former_bundle_or_the_new(toy, tmp_path):
    toy.model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", toy.train_images)
    former, out = tmp_path / "former", tmp_path / "out" / "bundle"
    toy.export(former, class_names=("former 1", "former 2", "former 3"))

    def start():
        listening, told = SERVER.Pipe(duplex=False)
        process = SERVER.Process(target=export, args=(tmp_path / "model.keras", tmp_path / "images.npy", out, told))
        process.start()
        told.close()  # so that a process that dies is noticed, not waited for
        assert listening.recv() == "ready"
        return process, listening, time.monotonic()

    process, listening, started = start()
    assert listening.recv() == "done"
    whole = time.monotonic() - started
    process.kill()
    found = []
    for moment in range(MOMENTS):
        with atomic_folder(out) as folder:
            shutil.copytree(former, folder, dirs_exist_ok=True)
        process, listening, started = start()
        if moment < MOMENTS - 1:
            time.sleep(max(0.0, whole * (moment + 0.5) / (MOMENTS - 1) - (time.monotonic() - started)))
        else:
            assert listening.recv() == "done"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        verify_bundle(out)
        found.append((out / "labels.txt").read_text().split()[0])
    assert set(found) == {"former", "new"}
    assert found[0] == "former"
    assert found[-1] == "new"
    toy.export(out)
    # The next export swept up what the killed ones left.
    assert [entry.name for entry in out.parent.iterdir()] == ["bundle"]
    assert (out / "labels.txt").read_text() == "red\ngreen\nblue\n"
