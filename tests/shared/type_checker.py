"""What basedpyright says of files, as an editor would."""

import json
import subprocess
import sys
from pathlib import Path


def reported(*files, folder, python=sys.executable) -> list[tuple[str, int, str]]:
    """Return file name, line and message of each error; run in `folder`, with the packages that `python` has."""
    command = [Path(sys.executable).with_name("basedpyright"), "--pythonpath", python, "--outputjson", *files]
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    found = json.loads(process.stdout)["generalDiagnostics"]
    return [(Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["message"]) for one in found]
