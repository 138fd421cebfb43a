"""Add a variant to the text of variant_config.json, which people write: everything else in it stays as it is."""

import json
from collections.abc import Mapping
from typing import Any

WIDTH = 110  # of a line


def with_variant(text: str, name: str, settings: Mapping[str, Any]) -> str:
    """The text of a file of variants with one more, at the end. text: a JSON object without this name."""
    body = text.rstrip().removesuffix("}").rstrip()
    between = "\n" if body.endswith("{") else ",\n\n"
    lines = ",\n".join(f"    {setting_text(key, value)}" for key, value in settings.items())
    return f"{body}{between}  {json.dumps(name)}: {{\n{lines}\n  }}\n}}\n"


def setting_text(name: str, value: Any) -> str:
    """A setting as JSON; a long list goes on in further lines."""
    line = f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
    if len(line) <= WIDTH or not isinstance(value, list):
        return line
    lines = [""]
    for item in value:
        text = json.dumps(item, ensure_ascii=False)
        if lines[-1] and len(lines[-1]) + len(text) > WIDTH:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + text + ","
    inner = "\n".join(f"      {line}" for line in lines).removesuffix(",")
    return f"{json.dumps(name)}: [\n{inner}\n    ]"
