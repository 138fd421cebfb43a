"""What the columns are that the settings name: their roles in preprocessing, and how the loader reads them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer.config.levels import shown
from trainer.runtime.errors import ConfigError

if TYPE_CHECKING:
    from trainer.config.net_config import NetConfig

# setting -> (role in preprocessing, kind of column for the loader), in the order of the features
FEATURE_SETTINGS = {
    "categorical_columns": ("categorical", "category"),
    "multi_categorical_columns": ("multi_categorical", "categories"),
    "text_columns": ("text", "text"),
    "numeric_columns": ("numeric", "number"),
    "log_numeric_columns": ("log_numeric", "amount"),
}
# A network takes this many columns in reasonable time: its graph has several operations for each.
MOST_COLUMNS = {tuple(FEATURE_SETTINGS): 1000, ("text_columns", "multi_categorical_columns"): 50}
NAME_ROLES = (
    "Name the columns in the variant, or give it a base, a variant that names them. "
    "`fab init --data=PATH --label=COLUMN` writes a variant for your rows."
)
KEY_KINDS = {"stratify_column": "key", "key_columns": "key", "group_columns": "key", "time_column": "time"}
LABEL_KINDS = {"binary": "probability", "regression": "target", "multiclass": "class", "multilabel": "classes"}


def columns_of(config: "NetConfig", setting_name: str) -> tuple[str, ...]:
    """The columns that one setting names."""
    named = getattr(config, setting_name)
    return named if isinstance(named, tuple) else (named,) if named else ()


def feature_roles(config: "NetConfig") -> dict[str, str]:
    """Column -> role in preprocessing, in the order of the configuration."""
    return {column: role for name, (role, _) in FEATURE_SETTINGS.items() for column in columns_of(config, name)}


def column_kinds(config: "NetConfig", *, labelled: bool = True) -> dict[str, str]:
    """Column -> kind in `trainer.data`, for all columns with a role; label and weight only if `labelled`.

    A key, group or stratify column that has another role, too, has the kind of that.
    """
    kinds = KEY_KINDS | {name: kind for name, (_, kind) in FEATURE_SETTINGS.items()}
    if labelled:
        label = "outcome" if config.positive_label is not None else LABEL_KINDS[config.objective]
        kinds |= {"label_column": label, "weight_column": "weight"}
    return {column: kind for name, kind in kinds.items() for column in columns_of(config, name)}


def check_columns(config: "NetConfig", sources: Mapping[str, str]) -> None:
    """ConfigError for a column with two roles that exclude each other, no label, and no features or too many."""
    if not config.label_column:
        raise ConfigError(f"There is no label_column, the column to predict. {NAME_ROLES}")
    for settings, most in MOST_COLUMNS.items():
        if sum(len(columns_of(config, name)) for name in settings) > most:
            raise ConfigError(f"More than {most:,} columns in {', '.join(settings)}. Leave some out.")
    roles: dict[str, list[str]] = {}
    for setting_name in (*KEY_KINDS, *FEATURE_SETTINGS, "label_column", "weight_column"):
        for column in columns_of(config, setting_name):
            roles.setdefault(column, []).append(setting_name)
    for column, names in roles.items():
        roles_of = [name for name in names if name != "stratify_column"]  # any column can be that one, too
        others = [name for name in roles_of if name not in ("key_columns", "group_columns")]
        shared = len(set(roles_of)) == len(roles_of) and others in ([], ["categorical_columns"], ["text_columns"])
        if len(roles_of) > 1 and not shared:
            places = " and ".join(f"{name} ({sources[name]})" for name in roles_of)
            raise ConfigError(
                f"Column {shown(column)} is named in {places}. A column can have one role; a key or group column can "
                "also be categorical or text."
            )
        if column.startswith("__"):
            raise ConfigError(
                f"Column {shown(column)} ({sources[names[0]]}) begins with __, which is reserved. Rename it."
            )
    if not feature_roles(config):
        raise ConfigError(f"There are no feature columns, in {', '.join(FEATURE_SETTINGS)}. {NAME_ROLES}")
