"""README and docs are held to the code: links, commands, examples and tables.

Every line of a `sh` block is checked: the program, its options, variants and settings must exist. `fab` commands that
need nothing but files run for real on the sample (of trainings, those whose package the page uses), and so do the
Python examples. Nothing that needs Docker, another machine, a bucket or a browser is run here.
"""

import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest
from fabric.main import program
from invoke import Collection
from invoke.parser import Parser, ParserContext

import fabfile
import networks
from tests.commands import ROOT, SAMPLE, Done, finished, trainer
from tests.test_networks import SHAPES, examples
from trainer import train
from trainer.config import show
from trainer.config.loading import BASE, config_class, load_config, variable, variants
from trainer.config.net_config import NetConfig
from trainer.config.roles import column_kinds
from trainer.machines import fab_program
from trainer.model import layers
from trainer.model.ops_wrapper import build_model_graph
from trainer.package.archive import read_package
from trainer.runtime import warm
from trainer.runtime.errors import Interrupted, TrainerError

PATHS = [*(ROOT / name for name in ("README.md", "BENCHMARKS.md", "CHANGELOG.md")), *sorted(ROOT.glob("docs/*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PATHS}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NETWORK_FILE = re.compile(r"# networks/(\w+)\.py\n")

LOCAL_TASKS = ("check-data", "config", "evaluate", "networks", "predict", "train", "variants")
ELSEWHERE = ("gs://", "--docker", "--gpu")
FAST = {"NET_EPOCHS": "1", "NET_TOKENIZER": "regex"}  # unless a command says otherwise


class Command(NamedTuple):
    """A line of a `sh` block: the variables that it sets, the program's name and its arguments."""

    variables: dict[str, str]
    program: str
    arguments: list[str]


def commands_in(text: str) -> Iterator[Command]:
    """The commands of a shell script, of which && joins several on a line."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            start = next(number for number, word in enumerate(command) if not re.match(r"[A-Z_]+=", word))
            name = command[start].removeprefix(".venv/bin/")
            yield Command(dict(word.split("=", 1) for word in command[:start]), name, command[start + 1 :])


def parse_fab(arguments: list[str]) -> list[ParserContext]:
    """The tasks of a `fab` command line with their options, parsed as fabric does: its own options first."""
    own = Parser(initial=ParserContext(args=program.core_args()), ignore_unknown=True).parse_argv(arguments)
    return list(Parser(contexts=Collection.from_module(fabfile).to_contexts()).parse_argv(own.unparsed))


def blocks(page: str, language: str) -> list[str]:
    return [code for kind, code in FENCE.findall(PAGES[page]) if kind == language]


def prose(page: str) -> str:
    return FENCE.sub("", PAGES[page])


EXAMPLES = [json.loads("{" + code + "}") for page in PAGES for code in blocks(page, "json")]
EXAMPLE_VARIANTS = {name: settings for example in EXAMPLES for name, settings in example.items()}
NETWORK_FILES = {
    match[1]: code for page in PAGES for code in blocks(page, "python") if (match := NETWORK_FILE.match(code))
}
COMMANDS = [(page, command) for page in PAGES for code in blocks(page, "sh") for command in commands_in(code)]
MENTIONED = [
    (page, command)
    for page in PAGES
    for code in re.findall(r"`([^`\n]*\bfab [^`\n]+)`", prose(page))
    for command in commands_in(code)
]


@pytest.fixture
def variant_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of all variants, those of the pages too; their networks exist meanwhile."""
    folder = tmp_path / "examples"
    folder.mkdir()
    for name, code in NETWORK_FILES.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    file = folder / "variant_config.json"
    file.write_text(json.dumps(variants() | EXAMPLE_VARIANTS), encoding="utf-8")
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(folder)])
    return file


# Links and pictures


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page)) + re.findall(r'(?:src|href)="([^"]+)"', prose(page))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    for link in links(page):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.relative_to(ROOT).as_posix()), link


def test_every_page_is_linked_from_the_readme() -> None:
    assert PAGES.keys() - {"README.md"} <= set(links("README.md"))


def test_the_readme_is_a_front_page() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_pictures_are_small_and_used() -> None:
    pictures = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.png")]
    assert pictures
    assert set(pictures) <= set(links("README.md"))
    assert all((ROOT / picture).stat().st_size < 200_000 for picture in pictures)


# Commands


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[" ".join(command[2][:2]) for _, command in COMMANDS])
def test_commands_exist_with_their_options_variants_and_settings(
    page: str, command: Command, variant_file: Path
) -> None:
    check_settings(command.variables)
    if command.program == "fab":
        for task in parse_fab(command.arguments):
            if "variant" in task.args:
                for variant in task.args["variant"].value.split(","):
                    load_config(variant, path=variant_file, environ=command.variables)
    elif command.program == "pip" and command.arguments[0] == "install":
        for name in re.findall(r"-r (\S+)", " ".join(command.arguments)):
            assert (ROOT / name).is_file(), name
    elif command.program == "docker":
        check_image(command.arguments)
    elif command.program.startswith("python") and command.arguments[0] == "-m":
        assert importlib.util.find_spec(command.arguments[1])
    elif command.program == "python":
        assert (ROOT / command.arguments[0]).is_file()
    else:
        assert (command.program, command.arguments[:2]) in [
            ("pip", ["check"]), (".", [".venv/bin/activate"]), ("uv", ["pip", "compile"]),
        ]  # fmt: skip


def check_image(arguments: list[str]) -> None:
    """`docker run`: the options of the image are those of `fab train`, and its variables are settings."""
    split = arguments.index("IMAGE")
    check_settings(dict(word.split("=", 1) for word in arguments[:split] if word.startswith("NET_")))
    parse_fab(["train", *arguments[split + 1 :]])


def check_settings(variables: dict[str, str]) -> None:
    known = {variable(item.name) for cls in (NetConfig, *map(config_class, networks.names())) for item in fields(cls)}
    assert {name for name in variables if name.startswith("NET_")} <= known


def test_a_wrong_option_or_setting_would_be_noticed(variant_file: Path) -> None:
    for text in ("fab train --epoch=3", "NET_EPOCS=3 fab train", "fab trian", "fab train --variant=no", "make all"):
        (command,) = commands_in(text)
        with pytest.raises(Exception, match=r"epoch|EPOCS|trian|'no'|make"):
            test_commands_exist_with_their_options_variants_and_settings("README.md", command, variant_file)


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_settings_in_sentences_exist(page: str, variant_file: Path) -> None:
    tasks = Collection.from_module(fabfile).task_names
    for command in (command for mentioned_on, command in MENTIONED if mentioned_on == page):
        if len(command.arguments) > 1:
            test_commands_exist_with_their_options_variants_and_settings(page, command, variant_file)
        assert command.program != "fab" or {*command.arguments} & tasks.keys(), command
    check_settings(dict.fromkeys(re.findall(r"`(NET_[A-Z_]*[A-Z])\b", prose(page)), ""))


# Commands and Python examples that run


def runs(page: str, command: Command) -> bool:
    """Whether a command is run here: it needs only files and, if it trains, the page uses the package."""
    task, run = command.arguments[0], re.search(r"--run=(\S+)", " ".join(command.arguments))
    return (
        command.program == "fab"
        and task in LOCAL_TASKS
        and not any(word in argument for word in ELSEWHERE for argument in command.arguments)
        and (task != "train" or (run is not None and f"packages/{run[1]}.zip" in PAGES[page]))
    )


PROGRAMS = {page: "\n".join(code for code in blocks(page, "python") if not NETWORK_FILE.match(code)) for page in PAGES}
RUNNING = {
    page: [command for mentioned_on, command in COMMANDS if mentioned_on == page and runs(page, command)]
    for page in PAGES
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands of all pages run; what one of them leaves, such as a package, others use."""
    folder = tmp_path_factory.mktemp("docs")
    write_rows(folder)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if RUNNING[page]])
def test_commands_run(page: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in RUNNING[page]:
        done = run_once(work, command, monkeypatch)
        assert (done.code, done.err) == (0, ""), command
        assert done.out


@pytest.mark.parametrize("page", [page for page in PAGES if PROGRAMS[page]])
def test_python_examples_run(page: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in RUNNING[page]:
        run_once(work, command, monkeypatch)
    done = finished(work, warm.start(run_python, work, PROGRAMS[page]))
    assert (done.code, done.err) == (0, "")
    assert done.out


def write_rows(folder: Path) -> None:
    """The sample, also under the names of columns that the examples use."""
    rows = [json.loads(line) for line in SAMPLE.read_bytes().splitlines()]
    names = {"product": "item", "shop": "publisher", "name": "title", "price": "age", "bought": "ctr"}
    lines = [json.dumps(row | {new: row[old] for new, old in names.items() if old in row}) for row in rows]
    for place in ("rows", "new_rows"):
        (folder / place).mkdir()
        (folder / place / "rows.json").write_text("\n".join(lines), encoding="utf-8")


RESULTS: dict[str, Done] = {}  # of commands that ran, some of which several pages name


def run_once(folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Done:
    if str(command) not in RESULTS:
        RESULTS[str(command)] = run_fab(folder, command, monkeypatch)
    return RESULTS[str(command)]


def run_fab(folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Done:
    """A `fab` command as fabric parses it. What it would start runs in a process that has TensorFlow imported, and an
    example's variant, which is not in variant_config.json, is given by the environment."""
    started: list[str] = []
    monkeypatch.setattr(fab_program, "call", lambda python, *words: started.extend(map(str, words)))
    task = parse_fab(command.arguments)[0]
    arguments = {name: argument.value for name, argument in task.args.items()}
    if "data" in arguments:  # the sample's own path is relative to the folder in which the other process was started
        arguments["data"] = arguments["data"] or str(SAMPLE)
    example = EXAMPLE_VARIANTS.get(arguments.get("variant"), {})
    if example:
        arguments["variant"] = example.get(BASE, "deep_v1")
    options = {argument.attr_name or name: arguments[name] for name, argument in task.args.items()}
    Collection.from_module(fabfile)[task.name].body(None, **options)
    assert started[0] == "-m"
    module = "trainer.__main__" if started[1] == "trainer" else started[1]
    settings = {
        variable(name): value if isinstance(value, str) else json.dumps(value)
        for name, value in example.items()
        if name != BASE
    }
    return trainer(folder, *started[2:], module=module, **(FAST | settings | command.variables))


def run_python(folder: Path, code: str) -> None:
    """The examples of a page, run as one script in a folder."""
    os.chdir(folder)
    os.environ.update(FAST)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    importlib.import_module("trainer.__main__").SAMPLE = str(SAMPLE)  # as for the commands
    exec(compile(code, "example", "exec"), {"__name__": "__main__"})


def test_network_files_build(variant_file: Path) -> None:
    assert NETWORK_FILES
    for name in NETWORK_FILES:
        ops = build_model_graph(load_config("deep_v1", environ={"NET_NETWORK": name}).config, SHAPES)
        assert ops.predict(ops.table(examples(3))).shape == (3,)


@pytest.mark.parametrize("name", EXAMPLE_VARIANTS)
def test_variants_load(name: str, variant_file: Path) -> None:
    assert column_kinds(load_config(name, path=variant_file, environ={}).config)


# Tables


def test_tables_of_settings_are_those_of_the_code() -> None:
    chapter = re.search(r"<!-- settings:[^\n]*\n(.*)<!-- /settings -->", PAGES["docs/configuration.md"], re.DOTALL)
    assert chapter is not None
    assert chapter[1].strip() == show.tables().strip(), "make it anew: python -m trainer.config.show tables"


def test_every_folder_has_its_sentence() -> None:
    layout = PAGES["docs/development.md"].partition("## Layout")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `([a-z_]+[a-z_0-9./]*)` \|", layout, re.MULTILINE)
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert {f"trainer/{path.parent.name}/" for path in ROOT.glob("trainer/*/__init__.py")} <= set(named)


def test_files_of_a_package_are_those_of_a_run(sample_run: Path) -> None:
    chapter = PAGES["docs/packages.md"].partition("## What is in it")[2].partition("\n## ")[0]
    listed = {
        name for line in re.findall(r"^\| (`.*?) \|", chapter, re.MULTILINE) for name in re.findall(r"`(.+?)`", line)
    }
    members = read_package(sample_run / "out" / "it.zip")
    assert listed - {"manifest.json"} == {re.sub(r"/.*", "/", name) for name in members}


def test_arguments_of_train_are_those_of_the_code() -> None:
    chapter = PAGES["docs/packages.md"].partition("| `trainer.train` takes |")[2].partition("\n\n")[0]
    lines = re.findall(r"^\| (`.*?) \|", chapter, re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(lines)) == [*inspect.signature(train).parameters][:-1]  # and any setting


def test_blocks_of_networks_exist() -> None:
    blocks_listed = re.findall(r"^\| `(\w+)` \|", PAGES["docs/networks.md"], re.MULTILINE)
    assert blocks_listed
    assert [name for name in blocks_listed if not hasattr(layers, name)] == []


def test_exit_codes_are_those_of_the_errors() -> None:
    chapter = PAGES["docs/training.md"].partition("## Exit codes")[2]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", chapter, re.MULTILINE)}
    assert codes == {0, 1, Interrupted.exit_code, *(error.exit_code for error in TrainerError.__subclasses__())}
