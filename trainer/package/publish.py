"""Send a package to its output folder or bucket, at the end of a run or later.

`python -m trainer.package.publish --run=NAME` sends the package of a finished run again.
"""

import json
from pathlib import Path

from trainer.cloud import storage
from trainer.cloud.storage import Stored
from trainer.config import names
from trainer.package import archive
from trainer.runtime.command import argument_parser, run_command, say
from trainer.runtime.errors import StorageError
from trainer.runtime.system import locked_folder, write_atomic

RUNS = Path("runs")
TARGET = "target.json"  # in the folder of a run: the destination of its package


def publish(package: Path, uri: str, replace: Stored | None = None) -> None:
    """Copy or upload a package to `uri`; fine if the same package is there already.

    replace: an earlier package of the same run, to take the place of. Remembers `uri` first, so that `main` can try
    again. StorageError where it cannot be written.
    """
    write_atomic(package.with_name(TARGET), json.dumps({"package": uri}).encode())
    try:
        storage.put(package, uri, replace=replace or False)
    except StorageError as error:
        raise StorageError(
            f"{error} The finished package is in {package}; upload it with `fab publish --run={package.stem}`."
        ) from error


def main(argv: list[str] | None = None) -> None:
    """Send the package of a finished run to its output folder or bucket."""
    parser = argument_parser("trainer.package.publish", main)
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--output", help="folder of the package, or gs://; default: the --output of the run")
    arguments = parser.parse_args(argv)
    names.check_name(arguments.run, "run")
    package = RUNS / arguments.run / f"{arguments.run}.zip"
    if not package.exists():
        raise StorageError(
            f"{package} does not exist: the run has not finished. Continue it with `fab train --run={arguments.run}`."
        )
    with locked_folder(package.parent):
        archive.check_package(package)
        uri = json.loads(package.with_name(TARGET).read_bytes())["package"]
        if arguments.output:
            uri = storage.join(arguments.output, package.name)
        publish(package, uri)
    say("package", uri)


if __name__ == "__main__":
    run_command(main)
