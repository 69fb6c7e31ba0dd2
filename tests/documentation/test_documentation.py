"""The pages of the documentation: links, commands, tables, and that every block of code is run or says why not.

`test_documentation_runs.py` runs the code.
"""

import functools
import re
import shlex
import sys

import pytest
import yaml
from pages import PAGES, ROOT, Block, blocks, inline_commands, page_name, without_blocks

import keras_convmixer as kc
from keras_convmixer import export, training
from keras_convmixer.__main__ import COMMANDS
from keras_convmixer.commands.command_line import run_app
from keras_convmixer.commands.training import with_recipe
from keras_convmixer.export.formats import FORMATS
from keras_convmixer.export.validation.requirements import REQUIREMENTS
from keras_convmixer.training.recipes import RECIPES

IMAGENET = "ImageNet is not here; the command is parsed"
NOT_RUN = {
    "make ": ".ci/run runs the targets",
    "pip install ": "needs a network; `make` and test_house.py install the package",
    ".venv/bin/": "runs the tests themselves",
    "python -m build": "test_house.py builds the wheel",
    "python -c ": "downloads data, or looks for a GPU",
    "python3 ": "for a machine with a GPU; test_gpu_benchmark.py has a dry run",
    "cd ": "for the line after it",
    "printf ": "needs the server, as curl sends it there; test_serving.py asks its signatures",
    "docker ": "needs containers; test_serving.py parses the files and asks a stand-in",
    "export TF_CONFIG=": "needs several hosts; test_strategy.py trains with TF_CONFIG on one",
    "for index in 0 1": "needs several hosts",
    "export VK_ICD_FILENAMES=": "for a machine with a Vulkan driver",
    "ssh ": "needs several hosts",
    "done": "needs several hosts",
    "wait": "needs several hosts",
    "sbatch ": "needs Slurm; test_launch.py runs the script with a stand-in",
    "kubectl ": "needs Kubernetes; test_launch.py parses the file",
    "convmixer plan imagenet_1536_20": IMAGENET,
    "convmixer train imagenet_1536_20": IMAGENET,
    "convmixer convert checkpoint.pth.tar": "needs PyTorch: test_a_pytorch_file_converts",
}
"""Beginnings of shell lines that are not run, with the reason."""
LANGUAGES = {
    "python": "run",
    "sh": "run, but for NOT_RUN",
    "text": "output, files and trees",
    "kotlin": "needs Android's SDK; the page says that it was not compiled",
    "swift": "needs Xcode; the page says that it was not compiled",
}


def reason_not_to_run(line: str) -> str | None:
    """Return why a shell line is not run, None where it is."""
    return next((reason for start, reason in NOT_RUN.items() if line.startswith(start)), None)


def all_blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 150


def test_every_block_names_a_language_that_is_run_or_has_a_reason():
    unknown = [block.place for page in PAGES for block in blocks(page) if block.language not in LANGUAGES]
    assert unknown == [], "name one of LANGUAGES after the three backticks"
    for block in [*all_blocks("kotlin"), *all_blocks("swift")]:
        assert "Not compiled or run here" in (ROOT / block.page).read_text(), block.place


def test_every_shell_line_is_run_or_has_a_reason():
    lines = [(block, line) for block in all_blocks("sh") for line in block.shell_lines()]
    neither = [f"{block.place}: {line}" for block, line in lines if not _is_run(line)]
    assert neither == [], "start the line with convmixer, or give a reason in NOT_RUN"
    unused = [start for start in NOT_RUN if not any(line.startswith(start) for _, line in lines)]
    assert unused == [], "no page has these lines any more"


def _is_run(line):
    return line.startswith("convmixer ") or reason_not_to_run(line)


def commands_of_pages():
    """Return every command of every page, (page, command), each once; PLACEHOLDERS of a reader are file names."""
    found = {}
    for page in PAGES:
        in_blocks = [line for block in blocks(page) if block.language == "sh" for line in block.shell_lines()]
        starting = [line[line.index("convmixer ") :] for line in in_blocks if re.search(r"(^|\W)convmixer ", line)]
        for command in [*starting, *inline_commands(page)]:
            command = command.removesuffix('" &').replace("COMMAND", "export")
            found.setdefault(command, page_name(page))
    return [pytest.param(command, id=f"{page}: {command}") for command, page in found.items() if "..." not in command]


def parse(words, monkeypatch):
    """Parse a command line as `convmixer` does, without running it; raise SystemExit where it is wrong."""

    def stub(command):
        return functools.wraps(command)(lambda *arguments, **options: None)

    monkeypatch.setattr(sys, "argv", ["convmixer", *words])
    try:
        run_app([stub(command) for command in COMMANDS], with_recipe)
    except SystemExit as ended:
        if ended.code != 0:  # --help ends with 0
            raise


@pytest.mark.parametrize("command", commands_of_pages())
def test_every_command_has_right_arguments(command, monkeypatch, capsys):
    words = shlex.split(command)[1:]
    words += ["--help"] * (len(words) == 1)  # a command's bare name in a sentence
    parse(words, monkeypatch)
    if "launch" in words[:1] and "--help" not in words:
        recipe = next(place for place, word in enumerate(words) if word in RECIPES)
        parse(["train", *words[recipe:]], monkeypatch)


def test_a_wrong_command_is_found(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(["train", "digits", "--epoch-count", "3"], monkeypatch)


LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(path):
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(without_blocks(page)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{page_name(page)} links to {link}, which is not there"
        if anchor:
            assert anchor in anchors(target), f"{page_name(page)} links to {link}, and there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_file_of_the_repository_that_a_page_names_is_there(page):
    folders = "keras_convmixer|training|export|commands|docs|tests|benchmarks|examples"
    named = re.findall(rf"(?<![\w/])((?:{folders})/[\w./-]*\w)", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_in_the_sites_menu():
    def names(menu):
        for entry in menu:
            for value in entry.values():
                yield from names(value) if isinstance(value, list) else [value]

    menu = yaml.safe_load((ROOT / "docs/mkdocs.yml").read_text())["nav"]
    assert sorted(names(menu)) == sorted([*map(page_name, PAGES), "CHANGELOG.md"])


def test_the_tweet_and_the_table_are_those_of_the_package():
    page = (ROOT / "docs/models.md").read_text()
    tweet = (ROOT / "keras_convmixer/model/tweet.py").read_text()
    assert f"```text\n{tweet}```" in page
    assert f"{len(tweet)} characters" in page
    for name, variant in kc.VARIANTS.items():
        (line,) = [line for line in page.splitlines() if f" {name} " in line and "│" in line]
        assert f" {variant.parameters / 1e6:.2f} " in line
        assert f" {variant.gmacs:.2f} " in line
        assert f" {variant.top1:.2f} " in line


def test_the_table_of_requirements_is_that_of_the_package():
    rows = {}
    for line in (ROOT / "docs/how/validation.md").read_text().splitlines():
        if found := re.fullmatch(r"\| ([a-z0-9_, ]+) \| (\d+) % \| ([\d.]+) points? \|", line):
            rows |= dict.fromkeys(found[1].split(", "), (int(found[2]), float(found[3])))
    points = {name: (100 * each.agreement, 100 * each.accuracy_loss) for name, each in REQUIREMENTS.items()}
    assert rows == {name: (round(least), round(most, 3)) for name, (least, most) in points.items()}
    formats = (ROOT / "docs/guides/quantize_and_prune.md").read_text()
    assert [name for name in FORMATS if not re.search(rf"^\|.*\b{name}\b.*\|.*\|.*\|$", formats, re.MULTILINE)] == []


def test_the_figures_of_litert_are_those_of_the_benchmark():
    measured = (ROOT / "benchmarks/results/litert.md").read_text().splitlines()
    (section,) = re.findall(r"^## LiteRT\n(.*?)^## ", (ROOT / "docs/results.md").read_text(), re.DOTALL | re.MULTILINE)
    rows = [line for line in section.splitlines() if " -> **" in line]
    assert len(rows) == 12
    assert [row for row in rows if row not in measured] == []


def test_every_public_name_is_in_the_reference():
    for package in (kc, training, export):
        page = package.__name__.removeprefix("keras_convmixer.").replace("keras_convmixer", "library")
        text = (ROOT / f"docs/reference/{page}.md").read_text()
        names = set(package.__all__) - {*kc.VARIANTS, "training", "export"}
        assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


def test_the_tree_in_contributing_names_what_is_there():
    tree = next(block for block in all_blocks("text") if block.page == "CONTRIBUTING.md").text
    folder, named = "", set()
    for line in tree.splitlines():
        if line.startswith(".ci"):
            continue
        # Names stand in the first column, several of them apart by two spaces; then what they are for.
        names = re.findall(r"[a-z][\w.]*(?:/|\.\w+)(?=\s|$)", re.split(r"\s{3,}", line.strip())[0])
        if not line.startswith(" "):
            folder, names = names[0], [""]
        for name in names:
            assert (ROOT / folder / name).exists(), f"CONTRIBUTING.md names {folder}{name}, which is not there"
            named.add(folder + name)
    for package in ("keras_convmixer", "training", "export"):
        folders = {f"{package}/{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")}
        floors = {f"keras_convmixer/{name}/" for name in ("training", "export", "commands")}
        assert folders - floors <= named, "a folder is not in the tree of CONTRIBUTING.md"
