"""Say what to install where a slim installation leaves a package out that a command needs."""

import sys
from types import TracebackType

from trainer.runtime.errors import ConfigError

# First part of a module's name -> what needs it, and the packages to install
OPTIONAL = {
    "google": ("gs:// and BigQuery", "google-cloud-storage google-cloud-bigquery"),
    "google_crc32c": ("Reading rows", "google-crc32c"),
    "docker": ("Docker", "docker"),
    "fabric": ("fab", "fabric"),
    "paramiko": ("Other machines", "fabric paramiko"),
    "spacy": ("tokenizer=spacy", "spacy"),
    "matplotlib": ("The report", "matplotlib"),
    "tensorboard": ("TensorBoard", "tensorboard"),
    "optuna": ("--sampler=tpe", "optuna"),
    "ray": ("--engine=ray", "ray"),
    "tensorflow": ("Training and prediction", "tensorflow"),
}


def explanation(error: BaseException | None) -> str:
    """What to install, if an import failed for want of a package; "" for any other error."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name not in OPTIONAL:
        return ""
    what, packages = OPTIONAL[name]
    return f"{what} needs the package {name}, which is not installed here. Install it: pip install {packages}"


def explain_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook` for programs that import an optional package before anything can catch the error."""
    if text := explanation(error):
        print(f"error: {text}", file=sys.stderr, flush=True)
        sys.exit(ConfigError.exit_code)
    sys.__excepthook__(kind, error, trace)
