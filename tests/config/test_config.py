"""The configuration: what is accepted means one thing, and everything else is refused in one clear message."""

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import networks
from tests.sample import SAMPLE_COLUMNS
from tests.scale import MEMORY, many
from trainer.config import loading as config
from trainer.config import network_settings, show, strict_json
from trainer.config.levels import COUNT_OR_SHARE, Level, allowed, resolve, value_from_json
from trainer.config.loading import Configuration, load_config
from trainer.config.names import check_name
from trainer.config.net_config import STOPPING_METRICS
from trainer.config.record import for_reading, from_json, to_json
from trainer.config.roles import FEATURE_SETTINGS, column_kinds, feature_roles
from trainer.model.metrics import Metrics
from trainer.runtime.errors import ConfigError

PROPERTY = hypothesis_settings(max_examples=50, deadline=None)
CLASSES = {name: network_settings.config_class(name) for name in networks.names()}

Load = Callable[..., Configuration]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the variant `small`, whose base has the columns of the sample, under an environment.

    given: its settings, or the text of its object, which needs a base of its own if it is to be loaded.
    """

    def load_small(given: Any = None, **environ: str) -> Configuration:
        text = given if isinstance(given, str) else json.dumps({"base": "sample"} | (given or {}))
        path = tmp_path / "variants.json"
        path.write_text(f'{{"small": {text}, "sample": {json.dumps(SAMPLE_COLUMNS)}}}', encoding="utf-8")
        return load_config("small", path=path, environ=environ)

    return load_small


@contextlib.contextmanager
def refused(*parts: str) -> Iterator[None]:
    """The block ends in a ConfigError whose message holds all parts."""
    with pytest.raises(ConfigError) as caught:
        yield
    missing = [part for part in parts if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    assert str(caught.value).isprintable()


def refused_file(tmp_path: Path, data: bytes, *parts: str) -> None:
    path = tmp_path / "variants.json"
    path.write_bytes(data)
    with refused(str(path), *parts):
        load_config("small", path=path, environ={})


# Names


def test_C1_unknown_setting_in_a_variant_offers_the_nearest(load: Load) -> None:
    with refused("variants.json, variant small", "deep_v1", '"epoch"', "'epochs'"):
        load({"epoch": 3})


def test_C2_unknown_variable_with_our_prefix_offers_the_nearest(load: Load) -> None:
    with refused("environment", '"NET_LEARNING_RAT"', "'NET_LEARNING_RATE'"):
        load(NET_LEARNING_RAT="0.1")


def test_C3_variables_without_the_prefix_are_ignored(load: Load) -> None:
    others = {"EPOCHS": "x", "XNET_EPOCHS": "x", "NETEPOCHS": "x", "net_device": "eth0"}
    assert load(**others) == load()


@pytest.mark.parametrize("name", ["EPOCHS", "Epochs"])
def test_C4_wrong_case_in_a_variant_gets_a_hint(load: Load, name: str) -> None:
    with refused(f'"{name}"', "write epochs"):
        load({name: 3})


@pytest.mark.parametrize("name", ["NET_epochs", "net_epochs", "Net_Epochs"])
def test_C4_wrong_case_in_the_environment_gets_a_hint(load: Load, name: str) -> None:
    with refused(f'"{name}"', "write NET_EPOCHS"):
        load(**{name: "3"})


def test_C5_a_nested_object_is_refused(load: Load) -> None:
    with refused('"training"', "no setting"):
        load({"training": {"epochs": 3}})
    with refused("epochs", "flat"):
        load({"epochs": {"value": 3}})


# The file


@pytest.mark.parametrize("text", ["[]", "3", "null", "true", '"small"'])
def test_C6_another_top_level_than_an_object_is_refused(tmp_path: Path, text: str) -> None:
    refused_file(tmp_path, text.encode(), "object of variants", text)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"deep_v1"'])
def test_C6_a_variant_that_is_no_object_is_refused(load: Load, text: str) -> None:
    with refused("variant small", "object of settings"):
        load(text)


@pytest.mark.parametrize("data", [b"", b" \n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_C7_an_empty_file_is_called_empty(tmp_path: Path, data: bytes) -> None:
    refused_file(tmp_path, data, "is empty")


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{"small": {"epochs": 3,\n  }}', 2, 3),
        ('{"small": {"hidden_units": [1,\n 2, ]}}', 2, 5),
        ('{"small": {}},', 1, 14),
        ('{\n"small": {} // the smallest\n}', 2, 13),
        ('{"small": {\n# one\n"epochs": 3}}', 2, 1),
        ('{"small": /* none */ {}}', 1, 11),
        ("{'small': {}}", 1, 2),
        ('{"small": {"split": \'time\'}}', 1, 21),
        ('{"small": {"epochs": 03}}', 1, 23),
        ('{"small": {"epochs": True}}', 1, 22),
        ('{"small": {"epochs" 3}}', 1, 21),
        ('{"small": {"split": "a\nb"}}', 1, 23),
        ('{"small": {"split": "time}}', 1, 21),
        ('{"small": {"epochs": 3}', 1, 24),
        ('{"small"', 1, 9),
        ("{", 1, 2),
    ],
)
def test_C8_what_is_no_json_is_refused_with_line_and_column(tmp_path: Path, text: str, line: int, column: int) -> None:
    refused_file(tmp_path, text.encode(), f"line {line}, column {column}:")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"small": {"epochs": 3,\n "seed": 1, "epochs": 4}}', "line 2, column 13"),
        ('{"small": {}, "small": {}}', "line 1, column 15"),
        ('{"small": {"epochs": 3, "\\u0065pochs": 3}}', "line 1, column 25"),
    ],
)
def test_C9_a_name_given_twice_is_refused(tmp_path: Path, text: str, place: str) -> None:
    refused_file(tmp_path, text.encode(), place, "twice")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", f"{'9' * 299}e{'9' * 300}"])
def test_C10_numbers_that_are_not_finite_are_refused(tmp_path: Path, number: str) -> None:
    refused_file(tmp_path, b'{"small": {"learning_rate": %s}}' % number.encode(), "line 1, column 29", "number")


def test_C11_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "variants.json"
    path.write_bytes(b'\xef\xbb\xbf{"small": {"epochs": 7, "label_column": "y", "text_columns": ["t"]}}')
    assert load_config("small", path=path, environ={}).config.epochs == 7


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        ('{"small": {}}'.encode("utf-16"), 0),
        ('{"small": {}}'.encode("utf-16-le"), 1),
        ('{"small": {}}'.encode("utf-16-be"), 0),
        ('{"small": {"label_column": "größe"}}'.encode("latin-1"), 30),
        (b'\xef\xbb\xbf{"\xff": {}}', 5),
        (b'{"\xed\xa0\x80": {}}', 2),
        (b'{"\xc0\xaf": {}}', 2),
    ],
)
def test_C12_what_is_not_utf_8_is_refused_with_its_offset(tmp_path: Path, data: bytes, offset: int) -> None:
    refused_file(tmp_path, data, "UTF-8", f"offset {offset}.")


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_C13_deep_nesting_is_refused(tmp_path: Path, load: Load, opening: str) -> None:
    refused_file(tmp_path, b'{"small": ' + opening.encode() * 100_000, "line 1, column", "levels deep")
    with refused("NET_TEXT_COLUMNS"):
        load(NET_TEXT_COLUMNS=opening * 100_000)


def test_C14_an_integer_of_5000_digits_is_refused(tmp_path: Path, load: Load) -> None:
    refused_file(tmp_path, b'{"small": {"epochs": -%s}}' % (b"7" * 5000), "line 1, column 22", "digits")
    with refused("NET_EPOCHS", "whole number"):
        load(NET_EPOCHS="7" * 5000)
    with refused("epochs = 7777", "out of range"):
        load('{"epochs": %s}' % ("7" * 300))
    with refused("learning_rate", "out of range"):
        load('{"learning_rate": %s}' % ("7" * 300))


def test_C15_a_file_above_1_mb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "variants.json"
    with path.open("wb") as file:
        file.truncate(10 * 2**30)
    started = time.monotonic()
    with refused("10,737,418,240 bytes", "1,000,000"):
        load_config("small", path=path, environ={})
    with refused("/dev/zero", "not a regular file"):
        load_config("small", path=Path("/dev/zero"), environ={})
    assert time.monotonic() - started < 10


def test_C16_a_missing_file_or_variant_says_what_there_is(tmp_path: Path, load: Load) -> None:
    (tmp_path / "variant_config.json").write_text("{}")
    for name in ("variants_config.json", "variant_config.json/x.json"):
        with refused("There is no file", name):
            load_config("small", path=tmp_path / name, environ={})
    with refused("variant_config.json"):
        load_config("small", path=tmp_path / "other.json", environ={})
    load()
    with refused("smal", "'small'"):
        load_config("smal", path=tmp_path / "variants.json", environ={})
    with refused("Known: sample, small"):
        load_config("quite_another", path=tmp_path / "variants.json", environ={})


HOSTILE_NAMES = [
    *(
        "",
        ".",
        "..",
        "../../etc/passwd",
        "a/../b",
        "/etc/passwd",
        "//",
        "a//b",
        "a\\b",
        "C:a",
        "a\0b",
        "a b",
        "a ",
        " a",
    ),
    *("-o", "--help", "_a", ".a", "a.", "a-", "ä", "١", "Small", "😀", "a\n", "a\u2028", "\ud800", "$(touch x)", "a;b"),
    *("`a`", "a|b", "a&b", "*", "~", "gs://x y", "%2e", "a'b", 'a"b', "a" * 101, "a" * 1025),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_C17_an_unsafe_variant_name_is_refused_before_any_file_is_opened(tmp_path: Path, name: str) -> None:
    with refused("variant", "Allowed"):
        load_config(name, path=tmp_path / "missing.json", environ={})


def test_C17_an_unsafe_variant_name_in_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "variants.json").write_text('{"small": {}, "../x": {}}')
    with refused('"../x"', "Allowed"):
        load_config("small", path=tmp_path / "variants.json", environ={})


def test_C17_folders_pipes_and_links_to_devices_are_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")  # opening it would wait for ever
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "folder.json", "link.json"):
        with refused(name, "not a regular file"):
            load_config("small", path=tmp_path / name, environ={})
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    with refused("loop.json", "cannot be read"):
        load_config("small", path=tmp_path / "loop.json", environ={})


@pytest.fixture
def folder_of_another_user() -> Iterator[Path]:
    """A folder that the test may read as another user than root, whom no permission stops."""
    folder = Path(tempfile.mkdtemp())  # pytest keeps its own below a folder that only the user who runs it may enter
    folder.chmod(0o755)
    is_root = os.geteuid() == 0
    yield folder
    if is_root:
        os.seteuid(0)
    shutil.rmtree(folder)


def test_C18_a_file_without_read_permission_is_refused(folder_of_another_user: Path) -> None:
    path = folder_of_another_user / "variants.json"
    path.write_text('{"small": {}}')
    path.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    with refused(str(path), "cannot be read", "Permission denied"):
        load_config("small", path=path, environ={})


# Types, in JSON


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("epochs", '"32"'),
        ("learning_rate", '"0.1"'),
        ("lowercase", '"true"'),
        ("hidden_units", '"[32]"'),
        ("hidden_units", "32"),
        ("hidden_units", '["32"]'),
        ("text_columns", '"title"'),
        ("text_columns", "[1]"),
        ("text_columns", "[null]"),
        ("text_columns", '[["title"]]'),
        ("label_column", "1"),
        ("weight_column", "false"),
        ("split", '["time"]'),
        ("patience", '"null"'),
    ],
)
def test_C19_a_value_of_another_type_is_refused(load: Load, name: str, text: str) -> None:
    with refused("variant small", f"{name} = {text}", "wrong type", "Allowed"):
        load(f'{{"{name}": {text}}}')


@pytest.mark.parametrize("text", ["32.0", "3.2e1", "1e2"])
def test_C20_a_float_for_a_whole_number_is_refused_even_if_it_is_whole(load: Load, text: str) -> None:
    with refused("epochs", "wrong type", "whole number"):
        load(f'{{"epochs": {text}}}')


def test_C20_a_whole_number_for_a_float_is_that_float(load: Load) -> None:
    rate = load({"learning_rate": 1}).config.learning_rate
    assert rate == 1.0
    assert type(rate) is float
    assert type(load(NET_CLIP_NORM="5").config.clip_norm) is float


@pytest.mark.parametrize("name", ["epochs", "learning_rate", "patience", "clip_norm"])
def test_C21_true_is_no_number(load: Load, name: str) -> None:
    with refused(f"{name} = true", "wrong type"):
        load({name: True})


def test_C21_true_is_no_number_in_a_list(load: Load) -> None:
    with refused("hidden_units", "wrong type"):
        load({"hidden_units": [8, True]})


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0])
def test_C22_a_number_is_no_boolean_in_json(load: Load, value: float) -> None:
    for name in ("lowercase", "deterministic"):
        with refused(name, "true or false"):
            load({name: value})


def test_C23_null_is_for_optional_settings_only(load: Load) -> None:
    with refused("epochs = null", "Allowed: whole number"):
        load({"epochs": None})
    with refused("NET_EPOCHS"):
        load(NET_EPOCHS="null")
    optional = ("weight_column", "time_column", "clip_norm", "patience", "deterministic")
    for loaded in (load(dict.fromkeys(optional)), load(**{f"NET_{name.upper()}": "null" for name in optional})):
        assert [getattr(loaded.config, name) for name in optional] == [None] * 5


# Types, in the environment


@pytest.mark.parametrize("text", ["False", "false", "FALSE", "0", "no", "No", "off", "OFF"])
def test_C24_words_for_false(load: Load, text: str) -> None:
    assert load(NET_LOWERCASE=text).config.lowercase is False
    assert load(NET_DETERMINISTIC=text).config.deterministic is False


@pytest.mark.parametrize("text", ["True", "true", "1", "yes", "on", "On"])
def test_C24_words_for_true(load: Load, text: str) -> None:
    assert load({"lowercase": False}, NET_LOWERCASE=text).config.lowercase is True


@pytest.mark.parametrize("text", ["maybe", "", " true", "2", "t", "y", "null", "[]", "\uff54rue"])
def test_C25_other_words_are_no_boolean(load: Load, text: str) -> None:
    with refused("environment", "NET_LOWERCASE", "true or false"):
        load(NET_LOWERCASE=text)


@pytest.mark.parametrize(
    "name", ["epochs", "patience", "learning_rate", "label_column", "weight_column", "text_columns"]
)
def test_C26_an_empty_variable_is_not_the_default(load: Load, name: str) -> None:
    with refused(f'NET_{name.upper()} = "" is empty'):
        load(**{f"NET_{name.upper()}": ""})


@pytest.mark.parametrize("text", ["1_000", " 5", "5 ", "5\n", "+5", "٣", "１２", "²", "--5", "-", "5.", "5,0", "5e0"])
def test_C27_a_whole_number_has_ascii_digits_only(load: Load, text: str) -> None:
    with refused("NET_EPOCHS", "Allowed: whole number"):
        load(NET_EPOCHS=text)


def test_C27_a_whole_number_may_have_leading_zeros_and_a_minus(load: Load) -> None:
    assert load(NET_EPOCHS="007", NET_SEED="-0").config.epochs == 7


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-inf", "Infinity", "1e999", "1_0.0", " 1", "1 ", "٣.٥", "0x1p-3", ".", "e5", "1e", "+1"]
)
def test_C28_a_float_is_finite_and_ascii(load: Load, text: str) -> None:
    with refused("NET_LEARNING_RATE", "Allowed: number"):
        load(NET_LEARNING_RATE=text)


@pytest.mark.parametrize(("text", "value"), [("0.01", 0.01), ("1e-3", 0.001), (".5", 0.5), ("2.", 2.0), ("1E+1", 10.0)])
def test_C28_usual_spellings_of_a_float_are_read(load: Load, text: str, value: float) -> None:
    assert load(NET_LEARNING_RATE=text).config.learning_rate == value


@pytest.mark.parametrize("text", ["0x10", "1e3", "0b1", "0o7", "1E3"])
def test_C29_other_notations_of_a_whole_number_are_refused(load: Load, text: str) -> None:
    with refused("NET_EPOCHS"):
        load(NET_EPOCHS=text)


@pytest.mark.parametrize(
    "text",
    ["64,", "64 32", "64;32", "(64, 32)", "[64, 32", "[64,]", '{"a": 1}', "[64.0]", '["64"]', "null", "[true]"],
)
def test_C30_a_list_is_written_as_json(load: Load, text: str) -> None:
    with refused("NET_HIDDEN_UNITS", "list"):
        load(NET_HIDDEN_UNITS=text)


@pytest.mark.parametrize(("text", "units"), [("64,32", (64, 32)), ("64", (64,)), (" 64 , 32 ", (64, 32))])
def test_C30_values_with_commas_between_them_are_a_list(load: Load, text: str, units: tuple[int, ...]) -> None:
    assert asdict(load(NET_HIDDEN_UNITS=text).config)["hidden_units"] == units
    assert load(NET_TEXT_COLUMNS="title,größe").config.text_columns == ("title", "größe")


def test_C30_a_json_list_is_read(load: Load) -> None:
    config = load(NET_HIDDEN_UNITS="[64, 32]", NET_TEXT_COLUMNS='["title", "größe"]', NET_NUMERIC_COLUMNS="[]").config
    assert asdict(config)["hidden_units"] == (64, 32)
    assert config.text_columns == ("title", "größe")
    assert config.numeric_columns == ()


@pytest.mark.parametrize("text", ["\udcff", "a\nb", "a\r", "a\tb", "\x1b[2J", "a\x00", "a\u2028b", "\x85"])
@pytest.mark.parametrize("name", ["label_column", "weight_column", "split", "epochs"])
def test_C31_line_breaks_control_characters_and_surrogates_are_refused(load: Load, name: str, text: str) -> None:
    with refused(f"NET_{name.upper()}"):
        load(**{f"NET_{name.upper()}": text})
    with refused(name):
        load({name: text})


# Ranges


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", -1),
        ("batch_size", 0),
        ("batch_size", -1),
        ("batch_size", 2**31),
        ("seed", -1),
        ("seed", 2**31),
        ("patience", 0),
        ("min_count", 0),
        ("max_tokens", 0),
        ("max_bad_rows", -1),
    ],
)
def test_C32_a_number_out_of_range_is_refused_with_the_range(load: Load, name: str, value: int) -> None:
    with refused("variant small", f"{name} = {value} is out of range", "whole number", "<= x <="):
        load({name: value})
    with refused(f'NET_{name.upper()} = "{value}" is out of range', "<= x <="):
        load(**{f"NET_{name.upper()}": str(value)})


def test_C32_each_item_of_a_list_keeps_the_range(load: Load) -> None:
    with refused("hidden_units = [64, 0]", "out of range"):
        load({"hidden_units": [64, 0]})


@pytest.mark.parametrize("value", [0, 0.0, -0.001, 1e9])
def test_C33_a_learning_rate_out_of_range_is_refused(load: Load, value: float) -> None:
    with refused("learning_rate", "out of range", "0 < x <= 100"):
        load({"learning_rate": value})


@pytest.mark.parametrize(
    ("test", "validation"), [(-0.1, 0.1), (1, 0.1), (0.1, 0), (0.1, -0.1), (0.1, 1), (0.5, 0.5), (0.9, 0.2)]
)
def test_C34_fractions_that_leave_a_side_empty_are_refused(load: Load, test: float, validation: float) -> None:
    with refused("_fraction", "variant small"):
        load({"test_fraction": test, "validation_fraction": validation})
    assert load({"test_fraction": 0, "validation_fraction": 0.999}).config.test_fraction == 0


def test_C35_an_unknown_network_lists_the_registered_ones(load: Load) -> None:
    for arguments, place in (
        ({"given": {"network": "deep_v9"}}, "variant small"),
        ({"NET_NETWORK": "deep_v9"}, "NET_NETWORK"),
    ):
        with refused(place, '"deep_v9"', *networks.names()):
            load(**arguments)
    with refused("deep_v9", *networks.names()):
        networks.load("deep_v9")


@pytest.mark.parametrize("network", ["os", "../trainer", "__init__", "", 3, None, ["deep_v1"]])
def test_C35_only_a_registered_name_is_ever_imported(load: Load, network: Any) -> None:
    with refused("network"):
        load({"network": network})


@pytest.mark.parametrize("name", ["split", "objective", "tokenizer", "optimizer", "decay"])
def test_C35_an_unknown_choice_lists_the_choices(load: Load, name: str) -> None:
    with refused(f'{name} = "no_such"', "not one of the choices", "one of "):
        load({name: "no_such"})


# Networks and their settings classes


def test_C36_two_networks_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep_v1.py").write_text("")
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path)])
    with refused("same name", str(tmp_path / "deep_v1.py")):
        networks.names()


NETWORK = """
from dataclasses import dataclass
from trainer.config import NetConfig, setting

@dataclass(frozen=True)
class Config(NetConfig):
    epochs: int = setting(3, "fewer", low=1, high=9)
    knob: tuple[str, ...] | None = setting(None, "a knob", choices=("a", "b"))
"""


def test_a_network_is_one_new_file_with_its_own_settings(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wide_test.py").write_text(NETWORK)
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path)])
    loaded = load({"network": "wide_test"}, NET_KNOB='["a"]')
    assert asdict(loaded.config)["knob"] == ("a",)
    assert (loaded.config.epochs, loaded.sources["epochs"]) == (3, "default of wide_test")
    with refused("epochs = 10", "1 <= x <= 9"):
        load({"network": "wide_test", "epochs": 10})
    with refused("deep_v1", '"NET_KNOB"'):
        load(NET_KNOB='["a"]')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "class Config"),
        ("Config = 3", "class Config"),
        (NETWORK.replace("knob:", "base:"), "cannot be called base"),
        (NETWORK.replace("@dataclass(frozen=True)", ""), "class Config"),
        (NETWORK.replace('setting(3, "fewer", low=1, high=9)', "3"), "declare epochs"),
    ],
)
def test_a_network_whose_settings_are_not_declared_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path)])
    with refused(name, message):
        network_settings.config_class(name)


@pytest.mark.parametrize("network", CLASSES)
def test_settings_read_without_keras_are_those_of_the_network(network: str) -> None:
    light, full = network_settings.declared_class(network, networks.files()[network]), networks.load(network).Config
    assert [(item.name, item.type, item.default, item.metadata) for item in fields(light)] == [
        (item.name, item.type, item.default, item.metadata) for item in fields(full)
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"fewer"', "str(3)"),
        ("NetConfig):", "Other):"),
        ('choices=("a", "b")', "choices=tuple(KINDS)"),
        ("@dataclass", "KINDS = 3\nif KINDS:\n    KINDS = 4\n@dataclass"),
        ("@dataclass", "((("),
    ],
)
def test_settings_that_need_more_of_the_file_are_not_guessed(tmp_path: Path, before: str, after: str) -> None:
    text = NETWORK.replace('setting(3, "fewer"', 'setting(KINDS, "fewer"') if "KINDS = 3" in after else NETWORK
    (tmp_path / "heavy.py").write_text(text.replace(before, after))
    light = network_settings.declared_class("heavy", tmp_path / "heavy.py")
    assert light is None or after == "str(3)"  # a builtin is no other part of the file
    (tmp_path / "heavy.py").write_text(NETWORK)
    assert network_settings.declared_class("heavy", tmp_path / "heavy.py").epochs == 3


def test_settings_are_shown_without_tensorflow() -> None:
    program = (
        "import sys; from trainer.config import show\n"
        "for variant in show.loading.variants(): show.main(['settings', f'--variant={variant}'])\n"
        "show.main(['tables']); assert not {'tensorflow', 'keras'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=config.VARIANT_FILE.parent)


@pytest.mark.parametrize("network", CLASSES)
def test_C37_every_default_has_its_declared_type_and_range(network: str) -> None:
    cls = CLASSES[network]
    given = {name: json.loads(json.dumps(value)) for name, value in asdict(cls(label_column="y")).items()}
    level = Level(given, "defaults", str, value_from_json, str)
    values, _ = resolve(cls, (level,), network)
    assert cls(**values) == cls(label_column="y")
    assert [type(values[item.name]) for item in fields(cls)] == [type(item.default) for item in fields(cls)]
    for item in fields(cls):
        assert item.metadata["meaning"].strip(), f"{item.name} says nothing"
        hints = typing.get_type_hints(cls)[item.name]
        words = allowed(hints, item.metadata)
        assert "number" not in words or re.search("<=? x <=?", words), f"{item.name} needs a lowest and a highest value"


def test_C38_two_runs_share_no_mutable_default(load: Load) -> None:
    first, second = load(), load()
    for cls in CLASSES.values():
        hash(cls())  # all values are immutable
    with pytest.raises(FrozenInstanceError):
        first.config.epochs = 5  # type: ignore[misc]
    first.sources["epochs"] = "changed"
    assert second.sources["epochs"] == load().sources["epochs"] == "default"


def test_C39_each_value_names_the_level_that_won(load: Load) -> None:
    loaded = load({"epochs": 5, "seed": 6, "dropout": 0.5}, NET_EPOCHS="7", NET_PATIENCE="1")
    assert (loaded.config.epochs, loaded.config.seed, loaded.config.patience) == (7, 6, 1)
    expected = {
        "epochs": "environment NET_EPOCHS",
        "seed": "variant small",
        "dropout": "variant small",
        "patience": "environment NET_PATIENCE",
        "batch_size": "default",
        "network": "default",
        "hidden_units": "default of deep_v1",
    }
    assert {name: loaded.sources[name] for name in expected} == expected
    assert list(loaded.sources) == [item.name for item in fields(loaded.config)]


def test_a_variant_starts_from_its_base(tmp_path: Path) -> None:
    shop = {"label_column": "y", "text_columns": ["t"], "epochs": 5, "seed": 1}
    (tmp_path / "v.json").write_text(json.dumps({"shop": shop, "other": {"base": "shop", "epochs": 6, "patience": 2}}))
    loaded = load_config("other", path=tmp_path / "v.json", environ={"NET_PATIENCE": "1"})
    expected = {
        "label_column": ("y", "base shop"),
        "text_columns": (("t",), "base shop"),
        "seed": (1, "base shop"),
        "epochs": (6, "variant other"),
        "patience": (1, "environment NET_PATIENCE"),
        "batch_size": (256, "default"),
    }
    assert {name: (getattr(loaded.config, name), loaded.sources[name]) for name in expected} == expected
    assert from_json(to_json(loaded)) == loaded


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"base": "sampel"}, ("variant small has the base", "sampel", "Did you mean 'sample'?")),
        ({"base": None}, ("variant small has the base null",)),
        ({"base": ["sample"]}, ("variant small has the base", "not a variant")),
        ({"base": "small"}, ("variant small has the base small, which has a base itself",)),
        ({"base": {"epochs": 3}}, ("variant small has the base", "not a variant")),
    ],
)
def test_a_base_is_another_variant_without_one(load: Load, settings: dict[str, Any], parts: tuple[str, ...]) -> None:
    with refused("variants.json", *parts):
        load(settings)


def test_a_base_cannot_have_a_base(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text('{"a": {}, "b": {"base": "a"}, "c": {"base": "b"}, "d": {}}')
    for name in "abcd":
        with refused("variant c has the base b, which has a base itself"):
            load_config(name, path=tmp_path / "v.json", environ={})


def test_a_setting_of_the_base_that_the_network_lacks_names_both_variants(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text('{"wide": {"batch_norm": true}, "deep": {"base": "wide", "network": "rnn_v1"}}')
    with refused("base wide", "network rnn_v1", '"batch_norm"', "Variant deep takes it from its base"):
        load_config("deep", path=tmp_path / "v.json", environ={})


def test_base_is_a_word_of_the_file_alone(load: Load) -> None:
    with refused("NET_BASE"):
        load(NET_BASE="sample")


@pytest.mark.parametrize("name", ["label_column", "text_columns"])
def test_roles_have_no_default(tmp_path: Path, name: str) -> None:
    columns = {"label_column": "y", "text_columns": ["t"]}
    (tmp_path / "v.json").write_text(json.dumps({"own": {key: columns[key] for key in columns if key != name}}))
    with refused("There", name, "`fab init --data=PATH --label=COLUMN`"):
        load_config("own", path=tmp_path / "v.json", environ={})


def test_the_command_line_overrides_the_environment(load: Load, tmp_path: Path) -> None:
    load()
    path, environ = tmp_path / "variants.json", {"NET_EPOCHS": "7", "NET_SEED": "3"}
    loaded = load_config("small", path=path, environ=environ, command_line=["epochs=9", "hidden_units=8,4"])
    assert (loaded.config.epochs, loaded.config.seed, asdict(loaded.config)["hidden_units"]) == (9, 3, (8, 4))
    assert (loaded.sources["epochs"], loaded.sources["seed"]) == ("command line", "environment NET_SEED")
    for wrong, parts in {
        "epoch=9": ("--set: network deep_v1", "'epochs'"),
        "epochs": ("NAME=VALUE",),
        "=9": ("NAME=VALUE",),
        "epochs=many": ("--set: epochs", "1 <= x"),
    }.items():
        with refused(*parts):
            load_config("small", path=path, environ={}, command_line=[wrong])
    with refused('"epochs" is there twice'):
        load_config("small", path=path, environ={}, command_line=["epochs=1", "epochs=2"])
    with pytest.raises(ConfigError) as caught:
        load_config("small", path=path, environ={}, command_line=["token=hunter2"])
    assert "hunter2" not in str(caught.value)


def test_C39_a_wrong_value_is_refused_even_if_a_later_level_overrides_it(load: Load) -> None:
    with refused("variant small", "epochs"):
        load({"epochs": "5"}, NET_EPOCHS="7")


def test_the_environment_can_choose_the_network(load: Load) -> None:
    loaded = load({"network": "deep_v1"}, NET_NETWORK="rnn_v1", NET_CELL="lstm")
    assert (loaded.config.network, asdict(loaded.config)["cell"]) == ("rnn_v1", "lstm")
    assert loaded.sources["network"] == "environment NET_NETWORK"


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_C40_an_unsafe_run_name_is_refused(name: str) -> None:
    with refused("name of a run", "Allowed"):
        check_name(name, "run")


@pytest.mark.parametrize("name", ["a", "0", "deep_v1", "rnn_v1-2026.01.31-a", "a..b", "a" * 100])
def test_C40_a_safe_run_name_is_accepted(name: str) -> None:
    check_name(name, "run")


def test_C41_no_setting_can_hold_a_secret(load: Load) -> None:
    secret = {"token", "key", "password", "passwd", "secret", "credential", "credentials"}  # key_columns names columns
    names = {item.name for cls in CLASSES.values() for item in fields(cls)}
    assert not [name for name in names if name.rpartition("_")[2] in secret]
    for arguments in ({"given": {"api_token": "hunter2"}}, {"NET_API_TOKEN": "hunter2"}):
        with pytest.raises(ConfigError) as caught:
            load(**arguments)
        assert "hunter2" not in str(caught.value)
    assert "hunter2" not in to_json(load(API_TOKEN="hunter2", EPOCHS="hunter2"))


# Round trips

COLUMN = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=8).filter(
    lambda name: not name.startswith("__") and name != "null"
)


def values_of(kind: Any, limits: dict[str, Any]) -> st.SearchStrategy[Any]:
    """JSON values that a setting accepts."""
    inner = [member for member in typing.get_args(kind) if member is not type(None)]
    if kind == COUNT_OR_SHARE:
        return values_of(int, limits) | st.floats(0, 99.9).map("{:.3f}%".format)
    if type(None) in typing.get_args(kind):
        return st.none() | values_of(inner[0], limits)
    if typing.get_origin(kind) is tuple:
        return st.lists(values_of(inner[0], limits), max_size=3)
    if limits["choices"]:
        return st.sampled_from(limits["choices"])
    low, high = limits["low"], limits["high"]
    if kind is str:
        return COLUMN
    if kind is int:
        return st.integers(low, high)
    open_ends = {"exclude_min": low is None, "exclude_max": high is None}
    low, high = limits["above"] if low is None else low, limits["below"] if high is None else high
    return st.booleans() if kind is bool else st.floats(float(low), float(high), **open_ends)


@st.composite
def variants_of(draw: st.DrawFn) -> dict[str, Any]:
    """Settings of any registered network that pass every check, in any order."""
    network = draw(st.sampled_from(networks.names()))
    cls = CLASSES[network]
    kinds = typing.get_type_hints(cls)
    names = draw(st.lists(COLUMN, min_size=6, max_size=20, unique=True))
    settings = {
        item.name: draw(values_of(kinds[item.name], dict(item.metadata)))
        for item in fields(cls)
        if item.name not in ("network", "stopping_metric") and not item.name.endswith(("_column", "_columns"))
    }
    settings |= {"network": network, "label_column": names[0], "weight_column": names[1], "time_column": names[2]}
    settings |= {"group_columns": names[3:5], "key_columns": names[3:6], "text_columns": names[4:7]}
    parts = iter((names[7:10], names[10:13], names[13:16], names[16:]))
    settings |= {
        f"{role}_columns": next(parts) for role in ("categorical", "multi_categorical", "numeric", "log_numeric")
    }
    settings |= {"stratify_column": names[0] if settings["split"] == "random" else None}
    settings |= {"stopping_metric": draw(st.sampled_from(sorted(STOPPING_METRICS[settings["objective"]])))}
    settings["positive_label"] = settings["positive_label"] if settings["objective"] == "binary" else None
    settings["test_fraction"] = min(settings["test_fraction"], 0.9)
    settings["validation_fraction"] = (
        min(settings["validation_fraction"], (1 - settings["test_fraction"]) / 2) or 5e-324
    )
    parts = (1 - settings["test_fraction"]) / settings["validation_fraction"]
    settings["validation_part"] = max(0, int(min(settings["validation_part"], parts - 2)))
    return dict(draw(st.permutations(list(settings.items()))))


def load_any(tmp: Path, settings: dict[str, Any], **environ: str) -> Configuration:
    path = tmp / "any.json"
    path.write_text(json.dumps({"any": settings}), encoding="utf-8")
    return load_config("any", path=path, environ=environ)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("variants")


@PROPERTY
@given(settings=variants_of())
def test_C42_a_configuration_written_out_and_read_back_equals_itself(folder: Path, settings: dict[str, Any]) -> None:
    loaded = load_any(folder, settings, NET_EPOCHS="7")
    assert json.loads(json.dumps(asdict(loaded.config))) == settings | {"epochs": 7}
    text = to_json(loaded)
    assert from_json(text) == from_json(text.encode()) == loaded
    assert to_json(from_json(text)) == text


@PROPERTY
@given(settings=variants_of())
def test_the_environment_gives_the_same_configuration_as_the_variant(folder: Path, settings: dict[str, Any]) -> None:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    by_environment = load_any(folder, {}, **{config.variable(name): text for name, text in texts.items()})
    assert by_environment.config == load_any(folder, settings).config
    assert set(by_environment.sources.values()) == {f"environment {config.variable(name)}" for name in settings}


@PROPERTY
@given(settings=variants_of(), data=st.data())
def test_C43_a_configuration_depends_on_the_values_alone(
    folder: Path, settings: dict[str, Any], data: st.DataObject
) -> None:
    shuffled = dict(data.draw(st.permutations(list(settings.items()))))
    first, second = load_any(folder, settings), load_any(folder, shuffled, NET_SEED=str(settings["seed"]))
    assert first.config == second.config
    changed = load_any(folder, settings | {"seed": (settings["seed"] + 1) % 2**31})
    assert changed.config != first.config


@pytest.mark.parametrize("version", [0, 2, 10**9, None, "1", [1]])
def test_config_json_of_another_format_is_refused(load: Load, version: Any) -> None:
    record = json.loads(to_json(load())) | {"format_version": version}
    with refused("config.json", "format version"):
        from_json(json.dumps(record))


def change(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split("/")
    inner = record
    for name in parents:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return record


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("settings", None, "damaged"),
        ("settings", [], "damaged"),
        ("variant", None, "damaged"),
        ("variant", 3, "damaged"),
        ("variant", "../x", "Allowed"),
        ("network", "rnn_v1", "damaged"),
        ("settings/network", None, "damaged"),
        ("settings/epochs", 3, "damaged"),
        ("settings/epochs/source", None, "damaged"),
        ("settings/epochs/source", "\x1b[2J", "damaged"),
        ("settings/epochs/value", "3", "wrong type"),
        ("settings/epoch", {"value": 3, "source": "default"}, "'epochs'"),
        ("settings/label_column/value", "title", "is named in"),
    ],
)
def test_a_damaged_config_json_is_refused(load: Load, path: str, value: Any, message: str) -> None:
    record = change(json.loads(to_json(load())), path, value)
    with refused(message):
        from_json(json.dumps(record))


def test_config_json_without_a_younger_setting_is_read_with_its_default(load: Load) -> None:
    record = change(json.loads(to_json(load())), "settings/max_bad_rows", None)
    assert from_json(json.dumps(record)) == load()


# Settings that must go together


@pytest.mark.parametrize(
    "settings",
    [
        {"label_column": "title"},
        {"label_column": "impressions"},
        {"weight_column": "age"},
        {"key_columns": ["ctr"]},
        {"group_columns": ["impressions"]},
        {"group_columns": ["age"]},
        {"key_columns": ["age"]},
        {"numeric_columns": ["hour"]},
        {"log_numeric_columns": ["age"]},
        {"text_columns": ["title", "title"]},
        {"key_columns": ["id", "id"]},
        {"categorical_columns": ["title"]},
        {"categorical_columns": ["title"], "group_columns": ["title"]},
        {"multi_categorical_columns": ["topics"], "key_columns": ["topics"]},
        {"time_column": "hour"},
        {"time_column": "at", "key_columns": ["at"]},
    ],
)
def test_a_column_in_two_roles_that_exclude_each_other_is_refused(load: Load, settings: dict[str, Any]) -> None:
    with refused("Column", "is named in", "variant small"):
        load(settings)


def test_a_key_or_group_may_be_a_category_or_text_and_keeps_the_kind_of_the_feature(load: Load) -> None:
    shared = {"key_columns": ["item", "id"], "group_columns": ["title", "item", "thumbnail", "id"]}
    kinds = column_kinds(load(shared).config)
    assert [kinds[name] for name in ("item", "id", "title", "thumbnail")] == ["category", "key", "text", "key"]


def test_roles_decide_the_kinds_of_the_columns(load: Load) -> None:
    named = {"categorical_columns": ["c"], "multi_categorical_columns": ["m"], "text_columns": ["t"]}
    named |= {"numeric_columns": ["n"], "log_numeric_columns": ["l"], "time_column": "at", "key_columns": ["k"]}
    expected = {"k": "key", "at": "time", "c": "category", "m": "categories", "t": "text", "n": "number", "l": "amount"}
    labels = {"binary": "probability", "regression": "target", "multiclass": "class", "multilabel": "classes"}
    for objective, kind in labels.items():
        settings = load({**named, "objective": objective, "label_column": "y", "weight_column": "w"}).config
        assert column_kinds(settings) == {**expected, "y": kind, "w": "weight"}
        assert column_kinds(settings, labelled=False) == expected
    positive = load({**named, "label_column": "y", "weight_column": None, "positive_label": "yes"}).config
    assert column_kinds(positive) == {**expected, "y": "outcome"}
    roles = {"c": "categorical", "m": "multi_categorical", "t": "text", "n": "numeric", "l": "log_numeric"}
    assert list(feature_roles(settings).items()) == list(roles.items())
    assert "w" not in column_kinds(load({**named, "weight_column": None}).config).values()


def test_no_feature_at_all_is_refused(load: Load) -> None:
    empty: dict[str, Any] = {name: [] for name in FEATURE_SETTINGS}
    with refused("no feature columns", "text_columns"):
        load(empty)


def test_a_reserved_column_name_is_refused(load: Load) -> None:
    with refused('"__label__"', "reserved"):
        load({"text_columns": ["__label__"]})


@pytest.mark.parametrize("value", [0, 12, "0%", "0.1%", "5%", "99.95%", "100%", "100.0%"])
def test_a_limit_is_a_count_or_a_share(load: Load, value: Any) -> None:
    assert load({"max_bad_rows": value}).config.max_bad_rows == value
    assert load(NET_MAX_BAD_ROWS=str(value)).config.max_bad_rows == value


@pytest.mark.parametrize("value", ["5", "%", "-1%", "101%", "0,1%", "1 %", "1%%", ".5%", "1e-1%", 0.1, True, None])
def test_what_is_neither_is_refused_with_both_forms(load: Load, value: Any) -> None:
    with pytest.raises(ConfigError, match='Allowed: whole number, or share from "0%" to "100%"'):
        load({"max_bad_rows": value})
    if isinstance(value, str) and value != "5":
        with pytest.raises(ConfigError, match="MAX_BAD_ROWS"):
            load(NET_MAX_BAD_ROWS=value)


def test_a_positive_label_goes_with_a_binary_label(load: Load) -> None:
    with pytest.raises(ConfigError, match=r'positive_label = "yes" .* goes with objective=binary alone'):
        load({"objective": "multiclass", "positive_label": "yes", "stopping_metric": "loss"})


def test_the_environment_changes_how_a_package_reads_rows_and_nothing_else(load: Load) -> None:
    packaged = from_json(to_json(load({"max_bad_rows": 3, "epochs": 5})))
    environ = {"NET_MAX_BAD_ROWS": "1%", "NET_SKIP_UNLABELLED": "yes", "NET_EPOCHS": "9", "HOME": "/root"}
    changed = for_reading(packaged, environ)
    assert changed.config == replace(packaged.config, max_bad_rows="1%", skip_unlabelled=True)
    assert changed.sources["max_bad_rows"] == "environment NET_MAX_BAD_ROWS"
    assert for_reading(packaged, {}) == packaged
    with pytest.raises(ConfigError, match="Did you mean 'NET_MAX_BAD_ROWS'"):
        for_reading(packaged, {"NET_MAX_BAD_ROW": "1"})
    with pytest.raises(ConfigError, match="NET_EPOCHS"):
        for_reading(packaged, {"NET_EPOCHS": "many"})


def test_a_split_needs_its_columns(load: Load) -> None:
    with refused('split = "time" (environment NET_SPLIT)', "time_column"):
        load(NET_SPLIT="time")
    with refused('split = "group" (variant small)', "group_columns"):
        load({"split": "group"})
    with refused('stratify_column = "ctr" (variant small) needs split = random, not split = "time"'):
        load({"split": "time", "time_column": "at", "stratify_column": "ctr"})
    load({"stratify_column": "ctr"})
    load({"split": "time", "time_column": "at"})
    load({"split": "group", "group_columns": ["thumbnail"]})


@pytest.mark.parametrize("objective", STOPPING_METRICS)
def test_the_stopping_metric_is_one_that_the_objective_has(load: Load, objective: str) -> None:
    for metric in {metric for metrics in STOPPING_METRICS.values() for metric in metrics}:
        settings = {"objective": objective, "stopping_metric": metric}
        if metric in STOPPING_METRICS[objective]:
            assert load(settings).config.stopping_metric == metric
        else:
            with refused(f'stopping_metric = "{metric}"', objective, *STOPPING_METRICS[objective]):
                load(settings)
    with refused("calibration"):
        load({"objective": objective, "stopping_metric": "calibration"})


@pytest.mark.parametrize("objective", STOPPING_METRICS)
def test_every_stopping_metric_is_computed(objective: str) -> None:
    outputs = 1 if objective in ("binary", "regression") else 7
    assert STOPPING_METRICS[objective].keys() <= Metrics(objective, outputs).result().keys()


# Strict JSON as such

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@PROPERTY
@given(value=JSON, indent=st.sampled_from([None, 1]), ascii=st.booleans())
def test_strict_json_reads_what_json_writes(value: Any, indent: int | None, ascii: bool) -> None:
    assert strict_json.loads(json.dumps(value, indent=indent, ensure_ascii=ascii)) == value


@PROPERTY
@given(
    text=st.lists(st.sampled_from(['"', "a", ",", ":", "{", "}", "[", "]", " ", "1", "-", ".", "e", "0", "true", "\\"]))
)
def test_what_strict_json_accepts_means_the_same_to_json(text: list[str]) -> None:
    try:
        value = strict_json.loads("".join(text))
    except ValueError:
        return
    assert value == json.loads("".join(text))


@PROPERTY
@given(data=st.binary() | JSON.map(lambda value: json.dumps({"small": value}).encode()))
def test_any_bytes_are_a_configuration_or_refused(folder: Path, data: bytes) -> None:
    path = folder / "bytes.json"
    path.write_bytes(data)
    with contextlib.suppress(ConfigError):
        load_config("small", path=path, environ={})


@PROPERTY
@given(name=st.sampled_from([item.name for item in fields(CLASSES["deep_v1"])]), text=st.text())
def test_any_text_in_the_environment_is_a_value_or_refused(folder: Path, name: str, text: str) -> None:
    with contextlib.suppress(ConfigError):
        load_any(folder, {}, **{config.variable(name): text})


@pytest.mark.parametrize("part", range(many(1, 8)))
def test_whatever_changes_in_a_variant_or_a_variable_it_is_a_value_or_refused(
    part: int, record_property: Callable[[str, int], None]
) -> None:
    """Starting from what is valid: every setting of a network."""
    chance, refusals, inputs = random.Random(part), set[str](), many(400, 50_000)
    settings = json.loads(json.dumps(asdict(load_config("deep_v1", environ={}).config)))
    letters = '"{}[]:,\\\n 0123456789-+.eE_truefalsnNaIity\x00\u2028\u0660'
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "variants.json"
        for _ in range(inputs):
            names = chance.sample(list(settings), chance.randint(1, 4))
            texts = {name: changed_text(json.dumps(settings[name]), letters, chance) for name in names}
            by_file = chance.random() < 0.7
            inside = ",".join(f'"{name}":{text}' for name, text in texts.items()) if by_file else ""
            path.write_text(f'{{"small":{{{inside}}}}}', encoding="utf-8", errors="surrogatepass")
            environ = {} if by_file else {config.variable(name): text for name, text in texts.items()}
            try:
                load_config("small", path=path, environ=environ)
            except ConfigError as error:
                refusals.add(str(error))
    assert 100 < len(refusals) < inputs
    assert not [text for text in refusals if not text.isprintable() or len(text) > 1500]
    record_property("variants and variables with changed text, read or refused", inputs)


def changed_text(text: str, letters: str, chance: random.Random) -> str:
    """Some characters replaced, removed or put in between, at up to three places."""
    for _ in range(chance.randint(0, 3)):
        at = chance.randrange(len(text) + 1)
        new = "".join(chance.choices(letters, k=chance.randint(0, 2)))
        text = text[:at] + new + text[at + chance.choice([0, 1, 1, 5]) :]
    return text


# What is shipped and shown


@pytest.mark.parametrize("variant", config.variants())
def test_every_shipped_variant_loads_and_names_only_what_differs(variant: str) -> None:
    loaded = load_config(variant, environ={})
    base = config.variants()[variant].get("base")
    defaults = load_config(base, environ={}).config if base else CLASSES["deep_v1"]()
    for name, source in loaded.sources.items():
        if source == f"variant {variant}":
            assert getattr(loaded.config, name) != getattr(defaults, name, None)


def test_config_rows_and_the_command_show_value_source_and_meaning(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {row[0]: row for row in show.config_rows(load({"text_columns": ["größe"]}, NET_PATIENCE="null"))}
    assert rows["text_columns"][1:3] == ('["größe"]', "variant small")
    assert rows["patience"][1:3] == ("null", "environment NET_PATIENCE")
    monkeypatch.setenv("NET_EPOCHS", "7")
    show.main(["settings", "--variant=rnn_v1_lstm"])
    lines = {line.split()[0]: " ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert lines["epochs"] == "epochs 7 environment NET_EPOCHS passes over the training rows, at most"
    assert lines["cell"] == 'cell "lstm" variant rnn_v1_lstm kind of recurrent layer'
    assert all(name in lines for name in rows if name != "batch_norm")


def test_the_commands_list_all_variants_and_networks(capsys: pytest.CaptureFixture[str]) -> None:
    for what, names in (("variants", config.variants()), ("networks", networks.names())):
        show.main([what])
        lines = capsys.readouterr().out.splitlines()[1:]
        assert [line.split()[0] for line in lines] == list(names)


def test_the_settings_tables_hold_every_setting_once() -> None:
    shared = show.settings_table()
    assert re.search(r"\| `test_fraction`<br>`0.1` \| .*<br>\*number, 0 <= x < 1\* \|", shared)
    for name, cls in CLASSES.items():
        listed = re.findall(r"^\| `(\w+)`<br>", shared + show.settings_table(name), re.MULTILINE)
        assert listed == [item.name for item in fields(cls)]
        assert all(line.count("|") == 3 for line in (shared + show.settings_table(name)).splitlines())
