"""A training and a prediction without a bucket, and as JSON the libraries of Google that they have imported."""

import json
import sys

from trainer import __main__
from trainer.package import publish, score  # noqa: F401 - that these import none is to be shown, too

GOOGLE = ("google.cloud", "google.auth", "google.api_core")


def main() -> None:
    __main__.main(["--data=rows.json", "--run=it"])
    score.main(["predict", "--package=packages/it.zip", "--data=rows.json", "--out=scores.json"])
    print(json.dumps([name for name in sys.modules if name.startswith(GOOGLE)]))
