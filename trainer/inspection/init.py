"""Write a variant for some rows: `python -m trainer.inspection.init --data=PATH --label=COLUMN`.

Looks at a sample of the rows, proposes a role for each column, prints it with the reason, and adds the variant to
`variant_config.json`.
"""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from trainer.cloud import output
from trainer.config import loading
from trainer.config.names import check_name
from trainer.config.net_config import NetConfig
from trainer.config.variant_text import with_variant
from trainer.data import dataset, sources
from trainer.data.selection import find_shards
from trainer.inspection.proposal import LEFT_OUT, OUTCOME, Proposed, propose
from trainer.inspection.raw_columns import raw_columns, sample_rows
from trainer.runtime import cache
from trainer.runtime.command import aligned, argument_parser, count, printable, run_command, say
from trainer.runtime.errors import ConfigError, DataError

PLAIN = ("train", "training", "rows", "data", "export", "shards", "part", "all")  # names that say nothing
EXAMPLES, EXAMPLE_WIDTH = 3, 34  # values in the table, and its longest cell of them


def init(data: str, label: str, name: str) -> list[Proposed]:
    """Write the variant `name` for rows and return the role of each column; nothing is written if anything fails."""
    source = sources.look_up(data)
    fields = sources.fields_of(source)
    with sources.local(source, cache.FOLDER, int(NetConfig.cache_gb * 1e9)) as path:
        shards = find_shards(path)
        rows = sample_rows(shards)
        if not rows:
            dataset.load(path, {label: "key"}, name=data)  # says what is wrong with the rows
            raise DataError(f"No row of {data} can be read. Run fab check-data to see why.")
    say("rows", f"{count(len(rows), 'row')} of {count(len(shards), 'file')} looked at")
    proposal = propose(raw_columns(rows, fields), label)
    text = loading.VARIANT_FILE.read_text(encoding="utf-8")
    with output.new_file(str(loading.VARIANT_FILE)) as temporary:
        temporary.write_text(with_variant(text, name, {"network": "deep_v1"} | proposal.settings), encoding="utf-8")
        loading.load_config(name, path=temporary, environ={})
    return proposal.columns


def check_new(name: str) -> None:
    """ConfigError unless a variant can have this name, and none has."""
    check_name(name, "variant")
    if name in loading.variants(loading.VARIANT_FILE):
        raise ConfigError(f"There is a variant {name} in {loading.VARIANT_FILE} already. Choose another --name.")


def name_of(data: str) -> str:
    """A name for the variant from the place of its rows: `shop` for gs://bucket/shop/train/ and for shop.json.gz."""
    parts = [part for part in PurePosixPath(data.removeprefix("gs://")).parts if not re.search(r"[*?\[=]", part)]
    for part in reversed(parts):
        stem = re.sub(r"\.(json|jsonl|ndjson|gz|txt)(?=\.|$)", "", part.lower())
        stem = re.sub(r"[^a-z0-9]+", "_", re.sub(r"[-_.]?[0-9]{6,}.*$", "", stem)).strip("_")
        if stem and stem not in PLAIN:
            return stem[:60]
    return "rows"


def table(columns: Sequence[Proposed]) -> str:
    """The role of each column, the reason, and some values."""
    rows = [("column", "role", "reason", "such as")]
    for column, setting, reason in columns:
        role = re.sub(r"_columns?$", "", setting) if setting != LEFT_OUT else "-"
        examples = printable(", ".join(json.dumps(value, ensure_ascii=False) for value in column.examples(EXAMPLES)))
        shown = examples if len(examples) <= EXAMPLE_WIDTH else examples[: EXAMPLE_WIDTH - 3] + "..."
        rows.append((printable(column.name), role, printable(reason), shown))
    return aligned(rows, widest=60)


def main(argv: list[str] | None = None) -> None:
    """Look at rows and write a variant for them: what each column is, ready to train."""
    parser = argument_parser("trainer.inspection.init", main)
    parser.add_argument("--data", required=True, help="rows: a file, a folder of shards, or a quoted glob; also gs://")
    parser.add_argument("--label", required=True, help="column to predict")
    parser.add_argument("--name", help="name of the variant; default: from the place of the rows")
    arguments = parser.parse_args(argv)

    name = arguments.name or name_of(arguments.data)
    check_new(name)
    columns = init(arguments.data, arguments.label, name)
    print(table(columns))
    if doubtful := [item.column.name for item in columns if item.reason.startswith(OUTCOME)]:
        say(
            "warning",
            f"Left out, since they seem to follow from {arguments.label}: {', '.join(map(repr, doubtful))}. Add "
            "one to the columns of the variant if its value is there when you predict.",
        )
    where = shlex.quote(arguments.data)
    say("variant", f"{name}, added to {loading.VARIANT_FILE}: change there what you know better")
    say("next", f"fab check-data --variant={name} --data={where}")
    say("", f"fab train --variant={name} --data={where}")


if __name__ == "__main__":
    run_command(main)
