"""A verified package to its place: at the end of a run, or later by `python -m trainer.package.publish --run=NAME`."""

import json
from pathlib import Path

from trainer.cloud import storage
from trainer.config import net_config
from trainer.package import archive
from trainer.runtime.command import argument_parser, run_command, say
from trainer.runtime.errors import StorageError
from trainer.runtime.system import locked_folder, write_atomic

RUNS = Path("runs")
TARGET = "target.json"  # in the folder of a run: where its package goes


def publish(package: Path, uri: str) -> None:
    """Put a package to its place; StorageError with what to do where that fails. One that is there already is no
    failure."""
    write_atomic(package.with_name(TARGET), json.dumps({"package": uri}).encode())
    try:
        storage.put(package, uri)
    except StorageError as error:
        raise StorageError(
            f"{error} The package is finished and stays in {package}; `fab publish --run={package.stem}` sends it."
        ) from error


def main(argv: list[str] | None = None) -> None:
    """Send the package of a finished run to where it belongs."""
    parser = argument_parser("trainer.package.publish", main)
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--output", help="folder of the package, or gs://; default: as the run was started")
    arguments = parser.parse_args(argv)
    net_config.check_run_name(arguments.run)
    package = RUNS / arguments.run / f"{arguments.run}.zip"
    if not package.exists():
        raise StorageError(
            f"There is no {package}: the run has not ended. `fab train --run={arguments.run}` goes on with it."
        )
    with locked_folder(package.parent):
        archive.read_package(package)
        uri = json.loads(package.with_name(TARGET).read_bytes())["package"]
        if arguments.output:
            uri = storage.join(arguments.output, package.name)
        publish(package, uri)
    say("package", uri)


if __name__ == "__main__":
    run_command(main)
