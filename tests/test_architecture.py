"""The shape of the code, held by machine: who may import whom, what no module does, how long a file may grow."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [*ROOT.glob("trainer/**/*.py"), *ROOT.glob("networks/*.py")]
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(FILES)}

# A folder imports from itself and from those after it; networks are looked up by name from below. "": trainer/ itself.
FOLDERS = (
    "", "machines", "search", "inspection", "comparison", "package", "training", "networks", "model", "features",
    "bigquery", "data", "config", "cloud", "runtime",
)  # fmt: skip
LOOKED_UP = {
    (f"trainer/{file}.py", "networks")
    for file in ("config/loading", "config/network_settings", "config/show", "model/ops_wrapper")
}


def folder_of(name: str) -> str:
    """`data` for trainer/data/split.py and trainer.data.split; `networks` for those; "" for the run itself."""
    parts = re.split(r"[/.]", name)
    return parts[0] if parts[0] != "trainer" else next((part for part in parts[1:2] if part in FOLDERS), "")


def upward_imports(trees: dict[str, ast.Module]) -> list[tuple[str, str]]:
    """(file, module) of each import from a folder further up."""
    edges = [(name, module) for name, tree in trees.items() for module, _ in imports(tree)]
    return [
        (name, module)
        for name, module in edges
        if module.split(".")[0] in ("trainer", "networks")
        and (name, module) not in LOOKED_UP
        and FOLDERS.index(folder_of(module)) < FOLDERS.index(folder_of(name))
    ]


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of everything imported; the name is "" where the module itself is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out"
            yield from ((node.module or "", alias.name) for alias in node.names)


def test_imports_run_downwards() -> None:
    assert upward_imports(TREES) == []
    planted = {"trainer/data/split.py": ast.parse("import trainer\nfrom trainer.features import vocabulary")}
    assert upward_imports(planted) == [("trainer/data/split.py", name) for name in ("trainer", "trainer.features")]


def test_every_folder_has_its_place_and_goes_into_the_image() -> None:
    folders = {path.parent.name for path in ROOT.glob("trainer/*/__init__.py")}
    assert folders <= set(FOLDERS)
    assert {path.name for path in ROOT.glob("trainer/*.py")} <= {"__init__.py", "__main__.py"}
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {line for line in sent if line.startswith("!trainer/")} == {
        "!trainer/*.py",
        *(f"!trainer/{folder}/*.py" for folder in folders),
        *(f"!{path.parent.relative_to(ROOT).as_posix()}/*.html" for path in ROOT.glob("trainer/*/templates/*.html")),
    }


def test_html_templates_are_installed_with_the_package() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert setuptools["package-data"] == {"*": ["templates/*.html"]}
    assert {path.parent.name for path in ROOT.glob("trainer/**/*.html")} == {"templates"}


def test_a_network_is_built_from_blocks_alone() -> None:
    for name, tree in TREES.items():
        if name.startswith("networks/"):
            modules = {module for module, _ in imports(tree)}
            assert {module for module in modules if module.startswith("trainer")} <= {
                "trainer.config", "trainer.features", "trainer.model.layers", "trainer.model.recurrent",
                "trainer.runtime.errors",
            }  # fmt: skip
            assert not [module for module in modules if module.split(".")[0] in ("tensorflow", "torch", "jax")]


CODE_FROM_DATA = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "jsonpickle"}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_nothing_turns_data_into_code(tree: ast.AST) -> None:
    assert not {module.split(".")[0] for module, _ in imports(tree)} & CODE_FROM_DATA
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("eval", "exec", "compile", "__import__", "pd.read_pickle", "torch.load")
        assert not called.endswith(("load_model", "unsafe_load", "os.system", "os.popen", "load_weights"))
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert keywords.get("shell", "False") == "False"
        if called in ("np.load", "np.savez", "np.save", "np.lib.format.read_array"):
            assert keywords["allow_pickle"] == "False"


def test_nothing_is_caught_blindly() -> None:
    for tree in TREES.values():
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None)


def test_the_run_is_one_page_and_nothing_is_long() -> None:
    for path in (*FILES, ROOT / "fabfile.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= (400 if path.name == "fabfile.py" else 300), path  # a flat list of commands
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                is_task = path.name == "fabfile.py" and node.decorator_list  # these parse, call and print
                assert (node.end_lineno or 0) - node.lineno + 1 <= (10 if is_task else 50), f"{path}: {node.name}"


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return [ROOT / name for name in listed.split("\0") if name] or [
        path for folder in ("trainer", "networks", "tests", "data") for path in (ROOT / folder).rglob("*.*")
    ]


def test_no_file_is_a_grab_bag() -> None:
    assert not [
        path for path in tracked_files() if path.stem in ("utils", "util", "common", "helpers", "misc", "tools")
    ]


def test_no_file_names_where_packages_are_fetched_from() -> None:
    hosts = re.compile(
        rb"pypi\.|python" + rb"hosted\.|ana" + rb"conda\.(org|com)|--(extra-)?index" + rb"-url", re.IGNORECASE
    )
    assert not [path for path in tracked_files() if path.is_file() and hosts.search(path.read_bytes())]
