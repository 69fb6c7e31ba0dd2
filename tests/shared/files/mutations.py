"""Files that are damaged at random, or made to do harm: the same for the same seed."""

import io
import json
import random
import re
import zipfile

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)
NUMBERS = ("0", "-1", "1", "7", "65537", "1000000000", "9" * 20, "1e308", "null", '"x"', "[]", "{}", "true")


def mutated(content: bytes, seed: int) -> bytes:
    """Damage a file in one to five places; archives also inside, with right checksums.

    Example:

        mutated(Path("model.keras").read_bytes(), seed=7)
    """
    chosen = random.Random(seed)
    if content.startswith(b"PK") and chosen.random() < 0.7:
        return _mutated_inside(content, chosen)
    return _damaged(content, chosen)


def _damaged(content, chosen):
    damaged = bytearray(content)
    for _ in range(chosen.randint(1, 5)):
        if not damaged:
            break
        # Half of them where formats have their structure: at the start and the end.
        near = min(chosen.choice((100, 1000, len(damaged))), len(damaged))
        place = chosen.randrange(near) if chosen.random() < 0.6 else len(damaged) - 1 - chosen.randrange(near)
        length = chosen.choice((1, 2, 4, 8, 64))
        way = chosen.randrange(6)
        if way == 0:
            damaged[place] ^= 1 << chosen.randrange(8)
        elif way == 1:
            damaged[place : place + length] = bytes([chosen.choice(EXTREMES)]) * length
        elif way == 2:
            damaged[place : place + length] = chosen.randbytes(length)
        elif way == 3:
            del damaged[place : place + length]
        elif way == 4:
            damaged[place:place] = damaged[place : place + length]
        elif chosen.random() < 0.3:
            del damaged[place:]
    return bytes(damaged)


def _mutated_inside(content, chosen):
    """Change one file of an archive, or leave one out, and pack all anew."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    # The description of the model or of the tensors, most times.
    telling = [name for name in files if name.endswith((".json", ".pkl", ".h5"))]
    name = chosen.choice(telling if telling and chosen.random() < 0.9 else list(files))
    if name.endswith(".json") and chosen.random() < 0.7:
        files[name] = _mutated_json(files[name].decode(), chosen).encode()
    elif chosen.random() < 0.05:
        del files[name]
    else:
        files[name] = _damaged(files[name], chosen)
    return packed(files)


def _mutated_json(text, chosen):
    """Replace numbers, or swap words that are in it."""
    for _ in range(chosen.randint(1, 3)):
        numbers = list(re.finditer(r"(?<=[:\[ ,])-?\d+(?:\.\d+)?", text))
        words = list(re.finditer(r'"[A-Za-z_0-9]+"', text))
        if numbers and chosen.random() < 0.7:
            found = chosen.choice(numbers)
            text = text[: found.start()] + chosen.choice(NUMBERS) + text[found.end() :]
        elif words:
            found, other = chosen.choice(words), chosen.choice(words)
            text = text[: found.start()] + other.group() + text[found.end() :]
    return text


def packed(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of files by their names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_units(config: str, units: int) -> str:
    """Return a Keras model's description whose dense layer has so many units."""
    description = json.loads(config)
    for layer in description["config"]["layers"]:
        if layer["class_name"] == "Dense":
            layer["config"]["units"] = units
            layer.pop("build_config", None)
    return json.dumps(description)
