"""Build the site of the documentation into build/docs/site; a broken link or reference fails.

Pages link to each other, and to other files, as these lie in the repository, so that the same pages read well on a code
host. The site is therefore built from a copy of the repository's pages in their places, with every file they link to.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "docs"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "examples/README.md")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
HELP = "<!-- help of every command -->\n"
COMMANDS = "from keras_convmixer.__main__ import COMMANDS; print(*(command.__name__ for command in COMMANDS))"


def pages() -> list[Path]:
    """Return every page of the documentation."""
    return sorted(path for pattern in PAGES for path in ROOT.glob(pattern))


def linked_files(page: Path) -> list[Path]:
    """Return the files of the repository that a page links to or shows."""
    return [(page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))]


def copy_pages(out: Path) -> None:
    """Copy every page, and every file that one links to, to its place below `out`."""
    wanted = set(pages())
    for page in pages():
        wanted |= {path for path in linked_files(page) if path.is_file() and path.is_relative_to(ROOT)}
    for path in wanted:
        target = out / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def run(*words: str) -> str:
    """Run Python with `words`; return what it prints."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(
        [sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ).stdout


def help_of_commands() -> str:
    """Return the help of every command as Markdown."""
    parts = []
    for name in run("-c", COMMANDS).split():
        # A recipe's options are the same for each; `train RECIPE --help` shows them.
        words = [name, "digits", "--help"] if name in ("train", "plan") else [name, "--help"]
        text = "\n".join(line.rstrip() for line in run("-m", "keras_convmixer", *words).strip().splitlines())
        parts.append(f"## {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def main() -> None:
    """Build the site."""
    shutil.rmtree(BUILD, ignore_errors=True)
    copy_pages(BUILD / "pages")
    commands = BUILD / "pages/docs/reference/commands.md"
    text = commands.read_text(encoding="utf-8")
    assert HELP in text, f"{commands} has no place for the commands' help"
    commands.write_text(text.replace(HELP, help_of_commands()), encoding="utf-8")
    shutil.copy(ROOT / "docs/mkdocs.yml", BUILD)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], check=True, cwd=BUILD)
    print(f"The site is in {(BUILD / 'site').relative_to(ROOT)}/index.html")


if __name__ == "__main__":
    main()
