"""Everything the documentation tells a reader to type, open or write is tried.

Commands are found in fenced `bash` blocks, in inline code, and in the comments of
configurations. Those for Snakemake are planned by a dry run of the same targets and
options; those for Python run until they have parsed their options; make prints what it
would do. So a target, option, key, recipe or file that is renamed fails here.
"""

import argparse
import itertools
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from gnesf_core.evaluation.view_splits import RELEASED_SCENES
from tests import posed_rooms
from tests.workflow.conftest import ROOT, copy_tree, make_up_scannet

PAGES = [
    *(ROOT / name for name in ("README.md", "config/README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMENTED = [
    ROOT / "Snakefile",
    *sorted((ROOT / "config").glob("*.yaml")),
    *sorted((ROOT / "profiles").glob("*/config.yaml")),
    ROOT / "tests/tiny/config.yaml",
]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.M | re.S)
CODE = re.compile(r"`([^`]+)`")

# By their first word.
TRIED = ("snakemake", "make", "python", "tensorboard")
NOT_TRIED = {
    "git": "fetches from the network",
    "source": "sets up the reader's own shell",
}
# Commands for Snakemake that plan nothing, by their option.
OTHER_MODES = {
    "--report": "tests/workflow/test_workflow.py makes one, of a finished run",
    "--unlock": "tests/workflow/test_workflow.py does, after a killed run",
}
# Its options that lay something over the configuration or the profile.
LAYING_OVER = ("--configfile", "--config", "--workflow-profile", "--profile",
               "--directory")  # fmt: skip
# What stands for a reader's own names.
PLACEHOLDERS = {"<table>": "table4", "<dataset>": "synthrooms", "<prior>": "labels"}
# Folders of the repository: paths that begin with one are there.
ROOMS = (".ci", "bench", "config", "docs", "envs", "gnesf_core", "profiles", "stages",
         "tests", "workflow")  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command line, and where a reader finds it."""

    place: str
    words: tuple[str, ...]

    @property
    def text(self):
        return " ".join(self.words)


def texts(path):
    """Yield line number, text, and whether it is a line of shell, of all code."""
    whole = path.read_text()
    if path.suffix != ".md":
        lines = whole.splitlines()
        whole = "\n".join(
            line.strip()[1:] if line.strip()[:1] == "#" else "" for line in lines
        )
        for number, line in enumerate(whole.splitlines(), 1):
            if line.startswith("  ") and line.split()[:1] and line.split()[0] in TRIED:
                yield number, re.split(r" {2,}", line.strip())[0], True
    for fence in FENCE.finditer(whole):
        first = whole[: fence.start()].count("\n") + 2
        if fence[1] == "bash":
            body = fence[2].replace("\\\n", "  ")
            for number, line in enumerate(body.splitlines(), first):
                yield number, line, True
        elif fence[1] == "text":
            for number, line in enumerate(fence[2].splitlines(), first):
                if shown := re.search(r"\b(snakemake|make|python -m) .*", line):
                    yield number, shown[0], True
    prose = FENCE.sub(lambda fence: re.sub(r"[^\n]", " ", fence[0]), whole)
    for code in CODE.finditer(prose):
        text = " ".join(code[1].split())
        yield prose[: code.start()].count("\n") + 1, text, False


def commands():
    """Return all commands there are; lines of shell are, code in prose may be."""
    found = []
    for path in PAGES + COMMENTED:
        for number, text, is_shell in texts(path):
            try:
                words = shlex.split(text, comments=is_shell)
            except ValueError:  # a lone apostrophe: prose
                assert not is_shell, f"{path}: {text}"
                continue
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words and (is_shell or words[0] in TRIED):
                words = [PLACEHOLDERS.get(word, word) for word in words]
                place = f"{path.relative_to(ROOT)}:{number}"
                found.append(Command(place, tuple(words)))
    return found


COMMANDS = commands()


def by_program(name):
    """Return each command of a program once, with all places where it stands."""
    places = defaultdict(list)
    for command in COMMANDS:
        if command.words[0] == name:
            places[command.words].append(command.place)
    return [Command(", ".join(at), words) for words, at in places.items()]


def plans():
    """Return Snakemake's commands, those that are laid over the same files as one."""
    targets, harmless = defaultdict(list), defaultdict(list)
    for command in by_program("snakemake"):
        line = re.sub(r"--cores( \d+| all)?(?!\S)|(?<!\S)-n(?!\S)", "", command.text)
        words = line.split()[1:]
        if OTHER_MODES.keys() & set(words):
            continue
        asked = list(itertools.takewhile(lambda word: word[0] != "-", words))
        options = words[len(asked) :]
        begin = [place for place, word in enumerate(options) if word in LAYING_OVER]
        begin = min(begin, default=len(options))
        files = tuple(options[begin:])
        targets[files] += asked or ["all"]
        harmless[files] += options[:begin]
    return [
        # Targets first: options take what follows them.
        Command("", (*dict.fromkeys(targets[files]), *harmless[files], *files))
        for files in targets
    ]


def settings_shown():
    """Return the YAML blocks of all pages, by the file that one names or their kind."""
    shown = defaultdict(list)
    for page in PAGES:
        for fence in FENCE.finditer(page.read_text()):
            if fence[1] == "yaml":
                named = re.match(r"# (my/\w+\.yaml)$", fence[2], re.M)
                block = yaml.safe_load(fence[2])
                kind = block.get("dataset") or "".join(block.get("datasets", {}))
                shown[named[1] if named else kind].append(fence[2])
    return shown


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A checkout with made-up files of every data set that pages speak of."""
    root = tmp_path_factory.mktemp("documented") / "tree"
    tree = copy_tree(root)
    for name in ("Makefile", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "envs", root / "envs")
    lists = RELEASED_SCENES["sray", "scannet"]
    make_up_scannet(root, train=24, others=[*lists.train, *lists.test])
    for folder in ("captures/attic", "rooms/den"):
        posed_rooms.write_nerfstudio(
            root / "resources" / folder, posed_rooms.camera_path(1)
        )
    overlay = (ROOT / "config/captures.yaml").read_text()
    trained = re.findall(r"weights: ([\w/.-]+)", overlay)
    own = [path for page in PAGES for path in re.findall(r"\bmy/\w+\.\w+",
                                                         page.read_text())]  # fmt: skip
    for name in trained + own:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for split in ("train", "val", "test"):
        listed = root / f"resources/scannet/scannetv2_{split}.txt"
        shutil.copy(listed, root / f"my/{split}.txt")
    for name, blocks in settings_shown().items():
        if name.endswith(".yaml"):
            (root / name).write_text("\n".join(blocks))
    return tree


def planned(tree, *words):
    """Plan what the environment's `snakemake` would do; return what it says."""
    command = [sys.executable, "envs/snakemake_command.py", "-n", *words]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=tree.root, env=os.environ | {"PATH": path},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Job stats:" in said or "Nothing to be done" in said, said
    return said


def test_no_command_is_of_a_kind_that_nobody_tries():
    strange = [c for c in COMMANDS if c.words[0] not in {*TRIED, *NOT_TRIED}]
    assert not strange
    # Not one kind has gone unnoticed by how commands are found.
    assert all(by_program(name) for name in (*TRIED, *NOT_TRIED) if name != "git")
    assert len(plans()[0].words) > 10 and len(plans()) > 3


@pytest.mark.slow
@pytest.mark.parametrize("command", plans(), ids=lambda command: command.text)
def test_snakemake_has_a_plan_for_every_command(tree, command, tmp_path):
    words = [word.replace("/tmp/", f"{tmp_path}/") for word in command.words]
    assert planned(tree, *words)


@pytest.mark.parametrize(
    "command", by_program("make"), ids=lambda command: command.text
)
def test_make_knows_what_to_do(tree, command):
    words = [word for word in command.words[1:] if word != "..."]
    words = [word for word in words if not word.startswith("PYTHON=")]
    done = subprocess.run(
        ["make", "-n", *words], cwd=tree.root, capture_output=True, text=True
    )
    assert done.returncode == 0, (command, done.stderr)


class Parsed(Exception):  # noqa: N818 (nothing went wrong)
    """The options of a command were accepted."""


def run_until_parsed(monkeypatch, words):
    """Run `python -m ...` up to the point where its options have been parsed."""

    # The launcher hands on what it does not know; all others refuse it.
    name = "parse_known_args" if words[0] == "stages.launch" else "parse_args"
    parse = getattr(argparse.ArgumentParser, name)

    def parse_and_stop(*arguments, **options):
        parse(*arguments, **options)
        raise Parsed

    monkeypatch.setattr(sys, "argv", list(words))
    monkeypatch.setattr(argparse.ArgumentParser, name, parse_and_stop)
    with pytest.raises((Parsed, SystemExit)) as ended:
        runpy.run_module(words[0], run_name="__main__", alter_sys=False)
    if ended.type is SystemExit:
        assert ended.value.code == 0 and "--help" in words, (words, ended.value.code)


def python_commands():
    """Return what `python -m` is asked for, for every module that a page may mean."""
    found = []
    for command in by_program("python"):
        assert command.words[1] == "-m", command
        module, *options = command.words[2:]
        pattern = re.sub(r"<\w+>", "*", module).replace(".", "/") + ".py"
        modules = [
            path.relative_to(ROOT).as_posix()[:-3].replace("/", ".")
            for path in sorted(ROOT.glob(pattern))
            if "__main__" in path.read_text()
        ]  # fmt: skip
        assert modules, f"{command.place}: {command.text}: no such module"
        for name in modules:
            asked = options or (["--help"] if "<" in module else [])
            found.append(Command(command.place, (name, *asked)))
    return found


@pytest.mark.parametrize("command", python_commands(), ids=lambda command: command.text)
def test_python_accepts_the_options(monkeypatch, capsys, command):
    module, *options = command.words
    if module == "stages.launch" and options != ["--help"]:
        assert (ROOT / f"stages/{options[1]}.py").is_file(), command
    elif module.startswith("stages.") and not options:
        options = ["--help"]  # it is named, not run
    run_until_parsed(monkeypatch, (module, *options))


@pytest.mark.parametrize(
    "command", by_program("tensorboard"), ids=lambda command: command.text
)
def test_tensorboard_accepts_the_options(command):
    from tensorboard.program import TensorBoard

    program = TensorBoard()
    program.configure(list(command.words))
    assert program.flags.logdir


# What each kind is laid over; Replica's is tried in tests/workflow/test_workflow.py.
LAID_OVER = {
    "": (),
    "captures": ("config/captures.yaml",),
    "scannet": ("config/scannet.yaml",),
}


def test_no_settings_are_shown_that_nobody_tries():
    given = {word for command in COMMANDS for word in command.words}
    assert set(settings_shown()) <= {*LAID_OVER, *given, "replica"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAID_OVER)
def test_settings_that_a_page_shows_are_accepted(tree, kind):
    files = list(LAID_OVER[kind])
    for number, block in enumerate(settings_shown()[kind]):
        files.append(f"shown-{kind}-{number}.yaml")
        (tree.root / files[-1]).write_text(block)
    assert planned(tree, "--configfile", *files)


def ids(paths):
    return [path.relative_to(ROOT).as_posix() for path in paths]


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_and_pictures_lead_somewhere(page):
    text = FENCE.sub("", page.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in [anchor_of(heading) for heading in headings], link


def anchor_of(heading):
    """Return the name by which GitHub links to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES + COMMENTED, ids=ids(PAGES + COMMENTED))
def test_paths_lead_somewhere(page):
    text = page.read_text()
    quoted = [code for _, code, _ in texts(page)]
    listed = [fence[2] for fence in FENCE.finditer(text) if fence[1] in ("", "text")]
    words = " ".join(quoted + listed).split()
    for word in words:
        path = word.strip(",;:()").split("#")[0]
        if path.split("/")[0] in ROOMS and not re.search(r"[*<>{}=|]|\.\.\.", path):
            assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), path


def keys_of(schema):
    """Yield the name of every key that a configuration may have."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
    for below in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(below, dict | list):
            yield from keys_of(below)


GUIDES = [page for page in PAGES if "decisions" not in page.parts]


@pytest.mark.parametrize("page", GUIDES, ids=ids(GUIDES))
def test_keys_are_those_of_the_configuration(page):
    schema = (ROOT / "workflow/schemas/config.schema.yaml").read_text()
    known = {*keys_of(yaml.safe_load(schema)), "name", "feat"}  # any; of a commit
    for number, code, is_shell in texts(page):
        if not is_shell and (key := re.match(r"([a-z_]+):( |$)", code)):
            assert key[1] in known, f"line {number}: {code}"


@pytest.mark.slow
def test_the_drawing_of_the_stages_is_what_snakemake_has_in_mind(tree):
    drawing = re.search(r"```mermaid\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    drawn = set()
    for line in drawing[1].splitlines()[1:]:
        chain = [re.match(r"\w+", part.strip())[0] for part in line.split("-->")]
        drawn |= set(zip(chain, chain[1:], strict=False))
    targets = ("all", "submission", "novel_views", "views", "flights")
    graph = tree.snakemake(*targets, "--rulegraph").stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', graph))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", graph)}
    assert {edge for edge in drawn if "raw" not in edge} <= edges
    stages = {path.stem for path in (ROOT / "stages").glob("*.py")}
    synthesized = {name for name in names.values() if name.startswith("synthesize")}
    shown = {stage for edge in drawn for stage in edge}
    assert stages & set(names.values()) - synthesized <= shown
