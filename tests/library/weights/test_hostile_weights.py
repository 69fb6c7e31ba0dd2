"""Damaged and hostile files of weights: one documented error each, soon, and without filling the memory."""

import io
import json
import re
import time
import zipfile

import frozen
import h5py
import keras
import numpy as np
import peers
import pytest
from mutations import packed, with_units
from processes import run_forked
from safetensors.numpy import save_file

import keras_convmixer as kc
from keras_convmixer.weights.conversion import convert

SECONDS, GIGABYTE = 5, 2**30
CASE = "odd_relu"

# In a process of its own, as a reader written in C may end it. Prints counts of outcomes, and the slowest and largest.
ATTACK = """
import collections, json, resource, signal, sys, time
from pathlib import Path
case, source, out, first, last = sys.argv[1:]
import frozen, keras, mutations, numpy, warnings, logging
import keras_convmixer as kc
from keras_convmixer.weights.conversion import convert
logging.disable()
warnings.simplefilter("ignore")
suffix = "." + source.split(".", 1)[1]
content = Path(source).read_bytes()
model = frozen.model(case)

def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

class Hang(BaseException):
    pass

def hang(*_):
    raise Hang

for number in (signal.SIGPROF, signal.SIGALRM):
    signal.signal(number, hang)
counts, faults, slowest = collections.Counter(), [], 0
kc.load_weights(model, source)
base = memory()
for seed in range(int(first), int(last)):
    path = Path(out, f"{seed}{suffix}")
    path.write_bytes(mutations.mutated(content, seed))
    for attempt in (lambda: kc.load_weights(model, path), lambda: convert(path, Path(out, "converted.safetensors"))):
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, 5)  # seconds of CPU time, as the machine may be busy
        signal.setitimer(signal.ITIMER_REAL, 60)
        try:
            attempt()
            outcome = "read"
        except (ValueError, OSError) as error:
            outcome = "refused"
            if "\\n" in str(error) or str(path) not in str(error):
                faults.append(f"{seed}: {error!r}")
        except BaseException as error:
            outcome = type(error).__name__
            faults.append(f"{seed}: {error!r}")
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        counts[outcome] += 1
        slowest = max(slowest, time.process_time() - start)
    path.unlink()
print(json.dumps({"counts": counts, "faults": faults, "slowest": slowest, "memory": memory() - base}))
"""


def attack(source, out, first, last):
    """Load and convert `last` - `first` files that are damaged at random; return what became of them."""
    process = run_forked(ATTACK, CASE, source, out, first, last)
    assert process.returncode == 0, process.stderr[-2000:]
    found = json.loads(process.stdout.splitlines()[-1])
    print(source.name, found)
    assert found["faults"] == []
    assert found["slowest"] < SECONDS
    assert found["memory"] < GIGABYTE
    assert sum(found["counts"].values()) == 2 * (last - first)
    assert found["counts"]["refused"] > (last - first) / 4
    return found


def write(folder, suffix):
    path = folder / f"model{suffix}"
    if suffix == ".safetensors":
        save_file(frozen.tensors(CASE), path)
    elif suffix in (".pth", ".bin"):
        torch = peers.import_torch()
        state = {name: torch.tensor(tensor) for name, tensor in frozen.tensors(CASE).items()}
        torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=suffix == ".pth")  # .bin: as of old
    else:
        model = frozen.model(CASE)
        model.save(path) if suffix == ".keras" else model.save_weights(path)
    return path


SUFFIXES = [
    *(".safetensors", ".weights.h5", ".keras"),
    *(pytest.param(suffix, marks=pytest.mark.peer) for suffix in (".pth", ".bin")),
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_damaged_at_random(tmp_path, suffix):
    attack(write(tmp_path, suffix), tmp_path, 0, 12)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_300_files_damaged_at_random(tmp_path, suffix):
    attack(write(tmp_path, suffix), tmp_path, 1000, 1300)


def refuse(path, words, model=None):
    """Loading and converting end with these words, and nothing of the size that the file states is made."""
    import tracemalloc

    tracemalloc.start()
    try:
        for attempt in (
            lambda: kc.load_weights(model or frozen.model(CASE), path),
            lambda: convert(path, path.parent / "out.safetensors"),
        ):
            with pytest.raises(ValueError, match=words) as caught:
                attempt()
            assert path.name in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def zeros(megabytes):
    return bytes(megabytes * 2**20)


@pytest.mark.parametrize("suffix", [".keras", pytest.param(".pth", marks=pytest.mark.peer)])
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path, suffix, compression):
    path = write(tmp_path, suffix)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    path.write_bytes(packed({**files, list(files)[-1]: zeros(80)}, compression))
    refuse(path, "states that .* bytes in it unpack to .*, and weights do not compress so well: it was not read")


def test_an_archive_whose_files_overlap_is_refused(tmp_path):
    """One piece of data that a thousand entries name."""
    path = write(tmp_path, ".keras")
    buffer = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", zeros(1))
        entry = archive.infolist()[-1]
        archive.filelist.extend([entry] * 1000)
    path.write_bytes(buffer.getvalue())
    refuse(path, "and weights do not compress so well: it was not read")


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_arrays_that_hold_far_less_than_they_state_are_refused(tmp_path, suffix):
    path = write(tmp_path, suffix)
    inner = path
    if suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        inner = tmp_path / "inner.h5"
        inner.write_bytes(files["model.weights.h5"])
    with h5py.File(inner, "a") as file:
        del file["layers/dense/vars/0"]
        file.create_dataset("layers/dense/vars/0", shape=(8, 10**9), dtype="float32", chunks=(8, 1024))
    if suffix == ".keras":
        path.write_bytes(packed({**files, "model.weights.h5": inner.read_bytes()}))
    refuse(path, "unpack to 32,.*, and weights do not compress so well: it was not read")


@pytest.mark.parametrize("link", ["external", "virtual", "link"])
def test_arrays_in_other_files_are_not_read(tmp_path, link):
    (tmp_path / "secret").write_bytes(bytes(4 * 8 * 11))
    path = write(tmp_path, ".weights.h5")
    with h5py.File(path, "a") as file:
        del file["layers/dense/vars/0"]
        if link == "external":
            file.create_dataset(
                "layers/dense/vars/0", (8, 11), "float32", external=[(str(tmp_path / "secret"), 0, 4 * 88)]
            )
        elif link == "virtual":
            layout = h5py.VirtualLayout((8, 11), "float32")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret"), "a", (8, 11))
            file.create_virtual_dataset("layers/dense/vars/0", layout)
        else:
            with h5py.File(tmp_path / "other.h5", "w") as other:
                other["a"] = np.zeros((8, 11), "float32")
            file["layers/dense/vars/0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "a")
    keeps = "keeps layers/dense/vars/0 in another file, which is not read"
    words = "does not hold layers/dense/vars/0 as an array of 2 axes" if link == "link" else keeps
    refuse(path, words)


def test_an_array_of_another_rank_is_refused(tmp_path):
    path = write(tmp_path, ".weights.h5")
    with h5py.File(path, "a") as file:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = np.zeros((8, 11, 1), "float32")
    refuse(path, "does not hold layers/dense/vars/0 as an array of 2 axes")


@pytest.mark.parametrize("units", [10**6, 10**12])
def test_a_description_that_asks_for_more_weights_than_there_are_is_refused(tmp_path, units):
    """Keras would make them, before it looks at the weights that are there."""
    path = write(tmp_path, ".keras")
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = with_units(files["config.json"].decode(), units)
    for content in (files, {name: files[name] for name in ("metadata.json",)}):
        path.write_bytes(packed({**content, "config.json": config.encode()}))
        refuse(path, "asks for more weights than the file holds")
    assert keras.layers.Layer.add_weight.__module__.startswith("keras")
    keras.layers.Dense(2000).build((None, 2000))  # more than any of that, and nobody minds


@pytest.mark.parametrize(
    "stem", [(10**9, 3, 2, 0), (10**9, 0, 2, 2), (10**9, 3, 0, 0), (8, 3, 10**6, 0), (10**6, 3, 1, 1)]
)
def test_shapes_of_which_nothing_is_there_are_refused(tmp_path, stem):
    """An array without numbers may state any size along its other axes."""
    tensors = {**frozen.tensors(CASE), "stem.0.weight": np.zeros(stem, "uint8")}
    save_file(tensors, tmp_path / "a.safetensors")
    refuse(tmp_path / "a.safetensors", "does not fit|states .* numbers")


def pickled(body):
    """A file of torch.save with a pickle of one's own."""
    return packed(
        {"archive/data.pkl": b"\x80\x02" + body + b".", "archive/version": b"3\n", "archive/byteorder": b"little"}
    )


def doubled(times, codec=b"hex"):
    """Calls of `_codecs.encode`, each with what the former returned: 2 to the power of `times` bytes."""
    word = b"X" + len(codec).to_bytes(4, "little") + codec
    start = b"c_codecs\nencode\n(X\1\0\0\0aX\6\0\0\0latin1tR"
    return b"c_codecs\nencode\n(" * times + start + (word + b"tR") * times


@pytest.mark.peer
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"cbuiltins\nbytearray\n\x8a\5\0\0\0\0\1\x85R", "bytes in a form that may grow"),  # 4 GB
        (b"c__builtin__\nbytearray\n\x8a\5\0\0\0\0\1\x85R", "bytes in a form that may grow"),
        (doubled(33), "bytes in a form that may grow"),
        (doubled(1, b"UTF-32"), "bytes in a form that may grow"),
        (doubled(0), "does not hold a state_dict of dense tensors"),  # what pickles of bytes were
        (b"]" * 20_000 + b"a" * 19_999, "does not hold a state_dict of dense tensors"),
        (b"}" + b"X\0\0\0\0}" * 20_000 + b"s" * 20_000, "does not hold a state_dict of dense tensors"),
    ],
    ids=["bytearray", "Python 2", "hex", "UTF-32", "latin1", "lists", "dictionaries"],
)
def test_a_pickle_that_grows_or_nests_without_bound_is_refused(tmp_path, body, words):
    (tmp_path / "a.pth").write_bytes(pickled(body))
    refuse(tmp_path / "a.pth", words)


@pytest.mark.peer
def test_bytes_beside_the_weights_are_no_harm(tmp_path):
    torch = peers.import_torch()
    state = {name: torch.tensor(tensor) for name, tensor in frozen.tensors(CASE).items()}
    torch.save({"state_dict": state, "commit": b"\1\2"}, tmp_path / "a.pth")
    kc.load_weights(frozen.model(CASE), tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            [f"{number}.stem.0.weight" for number in range(100_001)],
            "names 100,001 tensors, far more than any ConvMixer",
        ),
        (["a." * 20_000 + f"{number}" for number in range(200)], "does not fit"),
        ([f"blocks.{number}.1.weight" for number in range(9999)], "does not fit"),
    ],
    ids=["many", "long", "many blocks"],
)
def test_names_without_end_are_refused_soon(tmp_path, names, words):
    """An empty array costs 80 bytes of a header, and 100 MB may be header."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps(dict.fromkeys(names, entry)).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    model, start = frozen.model(CASE), time.process_time()
    with pytest.raises(ValueError, match=words) as caught:
        kc.load_weights(model, tmp_path / "a.safetensors")
    assert time.process_time() - start < SECONDS
    assert len(str(caught.value)) < 50_000


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.t7", b"\4\0\0\0\1\0\0\0\3\0\0\0V 1\15\0\0\0nn.Sequential", "is a file of Lua's Torch7, .* cannot read it"),
        ("b.t7", b"4\n1\n3\nV 1\n13\nnn.Sequential\n", "is a file of Lua's Torch7"),
        ("d.pth", b"<!DOCTYPE html><html>", "is a web page, .*: download the file itself"),
        ("e.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 20\n", "`git lfs pull`"),
        ("f.ckpt", "a whole .keras", "is a Keras model, not a .pth file: name it as that, .keras"),
        ("g.keras", "a whole .pth", "is a PyTorch file, not a .keras file: name it as that, .pth"),
        ("h.pt", "a whole .safetensors", "is a safetensors file, .*: name it as that, .safetensors"),
        ("i.pth", "a whole .weights.h5", "is an HDF5 file, as Keras writes"),
        ("j.safetensors", b"\x1f\x8b\x08\0", "is a packed archive, .*: unpack it and name the file in it"),
        ("k.weights.h5", b"\x1c\0\0\0TFL3", "is a .tflite file"),
        ("l.bin", packed({"a.npy": b""}), "is a NumPy archive"),
        ("m.keras", packed({"model.pth": b""}), "is a zip archive, .*: unpack it"),
        ("n.pt", packed({"a/data.pkl": b"", "a/constants.pkl": b""}), "is a TorchScript program, .*: save its state_"),
    ],
)
def test_lua_and_other_kinds_are_named(tmp_path, name, content, words):
    """A person who got one of these files has it whole, and is told what it is."""
    if isinstance(content, str):
        content = write(tmp_path, content.removeprefix("a whole ")).read_bytes()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        kc.load_weights(frozen.model(CASE), tmp_path / name)
    assert not re.search("delete|damaged|get it again", str(caught.value))
