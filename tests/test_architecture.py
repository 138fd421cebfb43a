"""The shape of the code, held by machine: who may import whom, what no module does, how long a file may grow."""

import ast
import re
import subprocess
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("trainer/[!_]*.py"))}
MODULES["__main__"] = ast.parse((ROOT / "trainer" / "__main__.py").read_text(encoding="utf-8"))
NETWORKS = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("networks/*.py"))}

STAGES = {
    "dataset": {"dataset", "engine", "inventory", "rows", "schema", "shards", "values"},
    "split": {"split"},
    "preprocessing": {"preprocessing", "examples", "labels", "scale", "text", "vocabulary"},
    "graph": {"graph", "tables", "layers", "optimizer", "objectives", "metrics", "recurrent", "replicas"},
    "training": {"training"},
    "reporting": {"reporting", "plots", "report_page"},
    "packaging": {"packaging"},
}
SHARED = {
    "errors", "system", "config", "settings", "strict_json", "timing", "command", "provenance", "cache", "checkpoint",
    "memory", "storage", "bucket", "download", "upload", "transfer", "service_errors", "lease", "mirror", "bigquery",
    "export_request", "leakage", "heartbeat", "gpu",
}  # fmt: skip
COMPOSERS = {
    "__main__", "resuming", "preparation", "sources", "capacity", "artefacts", "checks", "prediction", "serving",
    "show", "publishing", "export", "inspection", "inspection_page", "inspection_text", "cells", "doubts", "profile",
    "images", "containers", "archive", "detached", "looking", "machines", "remote", "remote_looking", "ssh",
}  # fmt: skip
STAGE_OF = {module: stage for stage, modules in STAGES.items() for module in modules}

# What a graph has to know of the data: plain records.
OF_PREPROCESSING = {"DatasetShapes", "Examples", "Packed", "pack"}


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from statements(node)


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of everything imported; the name is "" where the whole module is."""
    for node in statements(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out"
            yield from ((node.module or "", alias.name) for alias in node.names)


def own_imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module of the trainer, name) of what is imported from the trainer."""
    for module, name in imports(tree):
        if module == "trainer":
            yield name, ""
        elif module.startswith("trainer."):
            yield module.removeprefix("trainer."), name


def test_every_module_has_its_place() -> None:
    assert {*STAGE_OF, *SHARED, *COMPOSERS} == MODULES.keys()
    assert len(STAGE_OF) + len(SHARED) + len(COMPOSERS) == len(MODULES)


@pytest.mark.parametrize("module", sorted(STAGE_OF))
def test_a_stage_knows_no_other_stage(module: str) -> None:
    for imported, name in own_imports(MODULES[module]):
        if STAGE_OF[module] == "graph" and imported in ("preprocessing", "examples"):
            assert name in OF_PREPROCESSING
        else:
            assert STAGE_OF.get(imported) == STAGE_OF[module] or imported in SHARED, f"{module} imports {imported}"


@pytest.mark.parametrize("module", sorted(SHARED))
def test_what_all_share_rests_on_itself(module: str) -> None:
    assert {imported for imported, _ in own_imports(MODULES[module])} <= SHARED


def test_a_network_is_built_from_blocks_alone() -> None:
    for tree in NETWORKS.values():
        assert {imported for imported, _ in own_imports(tree)} <= {
            "config", "errors", "layers", "preprocessing", "recurrent",
        }  # fmt: skip
        assert not [module for module, _ in imports(tree) if module.split(".")[0] in ("tensorflow", "torch", "jax")]


def test_only_those_who_compose_or_build_see_the_whole_configuration() -> None:
    allowed = {*COMPOSERS, "config", "graph"}
    seen = {
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in ("NetConfig", "Configuration"))
        or (isinstance(node, ast.Attribute) and node.attr in ("NetConfig", "Configuration"))
        or (isinstance(node, ast.alias) and node.name in ("NetConfig", "Configuration"))
    }
    assert seen <= allowed


CODE_FROM_DATA = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "jsonpickle"}


@pytest.mark.parametrize("tree", [*MODULES.values(), *NETWORKS.values()], ids=[*MODULES, *NETWORKS])
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
    for tree in (*MODULES.values(), *NETWORKS.values()):
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None)


def test_the_run_is_one_page_and_no_module_is_a_book() -> None:
    for path in (*ROOT.glob("trainer/*.py"), *ROOT.glob("networks/*.py"), ROOT / "fabfile.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 320, path
    (run,) = (n for n in MODULES["__main__"].body if isinstance(n, ast.FunctionDef) and n.name == "run")
    assert (run.end_lineno or 0) - run.lineno + 1 <= 65
    for node in ast.walk(ast.parse((ROOT / "fabfile.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            assert (node.end_lineno or 0) - node.lineno + 1 <= 10, f"task {node.name}: parse, call, print"


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


PIN = re.compile(
    r"(?P<package>[a-z0-9-]+)(\[[a-z0-9,-]+\])?==(?P<version>[\w.+!]+)"
    r"( ; (?P<marker>[^#]*?))?(\s+--hash=sha256:[0-9a-f]{64})+\s*"
)


def pins(path: Path) -> dict[str, dict[str, str]]:
    """Package -> marker -> version; every line is a pin with hashes."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        pin = PIN.fullmatch(line)
        assert pin, f"{path.name}: {line[:80]}"
        found[pin["package"]][pin["marker"] or ""] = pin["version"]
    return found


LISTS = {path.name: pins(path) for path in sorted(ROOT.glob("requirements*.txt"))}


def test_every_list_pins_each_package_with_hashes_and_all_lists_agree() -> None:
    assert LISTS.keys() == {"requirements.txt", "requirements-dev.txt", "requirements-gpu.txt"}
    versions: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for listed in LISTS.values():
        assert len(listed) > 50
        for package, by_marker in listed.items():
            versions[package].add(tuple(sorted(set(by_marker.values()))))
    assert {package: found for package, found in versions.items() if len(found) > 1} == {}
    assert LISTS["requirements.txt"].keys() <= LISTS["requirements-dev.txt"].keys()


def test_the_pins_keep_what_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {
        "requirements.txt": project["dependencies"] + extras["cpu"],
        "requirements-gpu.txt": project["dependencies"] + extras["gpu"],
        "requirements-dev.txt": project["dependencies"] + extras["cpu"] + extras["dev"] + extras["notebook"],
    }
    for name, lines in declared.items():
        for requirement in map(Requirement, lines):
            versions = LISTS[name][requirement.name.lower()].values()
            assert versions, f"{name}: {requirement.name}"
            assert all(requirement.specifier.contains(version) for version in versions), f"{name}: {requirement}"
