"""The README tells the truth: its commands, tables and examples are held to the code."""

import json
import re
from pathlib import Path

import pytest

import networks
from tests.test_networks import SHAPES, examples
from trainer.config import show
from trainer.config.net_config import column_kinds, load_config
from trainer.model.ops_wrapper import build_model_graph
from trainer.runtime.errors import Interrupted, TrainerError

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_of_settings_are_those_of_the_code() -> None:
    chapter = re.search(r"<!-- settings:[^\n]*\n(.*)<!-- /settings -->", README, re.DOTALL)
    assert chapter is not None
    assert chapter[1].strip() == show.tables().strip(), "make it anew: python -m trainer.config.show tables"


def test_every_folder_has_its_sentence() -> None:
    named = re.findall(r"^\| `([a-z_]+[a-z_0-9./]*)` \|", README.partition("## Layout")[2], re.MULTILINE)
    assert [name for name in named if not (ROOT / name).exists()] == []
    folders = {f"trainer/{path.parent.name}/" for path in ROOT.glob("trainer/*/__init__.py")}
    assert folders <= set(named)


def test_exit_codes_are_those_of_the_errors() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", README.partition("## Exit codes")[2], re.MULTILINE)}
    assert codes == {0, 1, Interrupted.exit_code, *(error.exit_code for error in TrainerError.__subclasses__())}


@pytest.mark.parametrize("example", re.findall(r"```json\n(.*?)```", README, re.DOTALL))
def test_variants_of_the_readme_load(example: str, tmp_path: Path) -> None:
    file = tmp_path / "variant_config.json"
    file.write_text("{" + example + "}", encoding="utf-8")
    (name,) = json.loads(file.read_text(encoding="utf-8"))
    assert column_kinds(load_config(name, path=file, environ={}).config)


def test_the_network_of_the_readme_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n# networks/(\w+)\.py\n(.*?)```", README, re.DOTALL)
    assert code is not None
    (tmp_path / f"{code[1]}.py").write_text(code[2], encoding="utf-8")
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path)])
    config = load_config("deep_v1", environ={"NET_NETWORK": code[1]}).config
    ops = build_model_graph(config, SHAPES)
    assert ops.predict(ops.table(examples(3))).shape == (3,)
