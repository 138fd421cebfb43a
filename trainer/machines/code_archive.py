"""Pack the code for the Docker engine of another machine: the files that git tracks and the image needs, as a tar."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

from docker.utils.build import PatternMatcher

from trainer.runtime.errors import ConfigError

DOCKER_FILES = ("Dockerfile", "Dockerfile.gpu", ".dockerignore")


def archive(root: Path, *, dirty: bool) -> bytes:
    """A tar archive of the files that .dockerignore admits, as they are in the commit that is checked out.

    dirty: as they are in the working folder, with new files that git does not ignore. ConfigError without a commit.
    """
    if not dirty:
        names = listed(root, "ls-tree", "-r", "-z", "--name-only", "HEAD")
        modes = ("-c", "tar.umask=0022")  # the same as in `normalised`
        return git(root, *modes, "archive", "--format=tar", "HEAD", *in_image(root, names))
    names = listed(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in in_image(root, names):
            path = root / name
            if path.is_file() and not path.is_symlink():
                tar.add(path, arcname=name, recursive=False, filter=normalised)
    return buffer.getvalue()


def normalised(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member without owner and time, so that the same files make the same image layer."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    info.mode = 0o755 if info.mode & 0o100 else 0o644
    return info


def in_image(root: Path, names: list[str]) -> list[str]:
    """The files that the image is built from."""
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    ignored = PatternMatcher([line.strip() for line in lines if line.strip() and not line.startswith("#")])
    return [name for name in sorted(set(names)) if name in DOCKER_FILES or not ignored.matches(name)]


def uncommitted(root: Path) -> bool:
    """Whether files that the image is built from differ from the commit that is checked out."""
    changed = [
        line[3:] for line in listed(root, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames")
    ]
    return bool(in_image(root, changed))


def commit(root: Path) -> str:
    """The hash of the commit that is checked out; ConfigError without one."""
    return git(root, "rev-parse", "HEAD").decode().strip()


def listed(root: Path, *arguments: str) -> list[str]:
    """The file names that a git command lists, separated by null bytes (-z)."""
    return [name for name in os.fsdecode(git(root, *arguments)).split("\0") if name]


def git(root: Path, *arguments: str) -> bytes:
    """The output of a git command; ConfigError if it fails."""
    command = ["git", "--literal-pathspecs", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"Sending the code needs git, which cannot be run: {error}.") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise ConfigError(f"The code in {root} cannot be sent: git says: {reason}. Commit it first.")
    return done.stdout
