"""The pages of the documentation: README.md, CONTRIBUTING.md, docs/ and examples/README.md, with their code."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_name(path: Path) -> str:
    """Return a page's path in the repository, as in "docs/guides/keras.md"."""
    return path.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def shell_lines(self) -> list[str]:
        """The commands of a block of `sh`, without comments."""
        lines = (re.sub(r"(^|\s+)# .*$", "", line).strip() for line in self.text.splitlines())
        return [line for line in lines if line]

    def run_python(self, names: dict) -> None:
        """Run the block in a namespace; an error's traceback has the page's lines."""
        padded = "\n" * self.line + self.text
        exec(compile(padded, str(ROOT / self.page), "exec"), names)


def blocks(path: Path) -> list[Block]:
    """Return a page's blocks of code in order."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(page_name(path), text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in _FENCE.finditer(text)
    ]


def without_blocks(path: Path) -> str:
    """Return a page's text without its blocks of code."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def inline_commands(path: Path) -> list[str]:
    """Return the commands with arguments that stand in a page's sentences and tables."""
    found = re.findall(r"`(convmixer\s[^`]*)`", without_blocks(path))
    return [" ".join(command.split()) for command in found]
