"""The code as another machine's Docker engine is sent it: what git knows of it and the image takes, as a tar."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

from docker.utils.build import PatternMatcher

from trainer.runtime.errors import ConfigError

OWN = ("Dockerfile", "Dockerfile.gpu", ".dockerignore")


def archive(root: Path, *, dirty: bool) -> bytes:
    """The files of the commit that is checked out, as they are in it; `dirty`: as they lie there now, and those that
    git neither knows nor ignores. Only what .dockerignore lets through is in it. ConfigError without a commit."""
    if not dirty:
        names = listed(root, "ls-tree", "-r", "-z", "--name-only", "HEAD")
        modes = ("-c", "tar.umask=0022")  # those of as_a_commit_has_it
        return git(root, *modes, "archive", "--format=tar", "HEAD", *wanted(root, names))
    names = listed(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in wanted(root, names):
            path = root / name
            if path.is_file() and not path.is_symlink():
                tar.add(path, arcname=name, recursive=False, filter=as_a_commit_has_it)
    return buffer.getvalue()


def as_a_commit_has_it(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """A file without its owner and time: the same bytes make the same layer of an image."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    info.mode = 0o755 if info.mode & 0o100 else 0o644
    return info


def wanted(root: Path, names: list[str]) -> list[str]:
    """Those files that the image is built from."""
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    ignored = PatternMatcher([line.strip() for line in lines if line.strip() and not line.startswith("#")])
    return [name for name in sorted(set(names)) if name in OWN or not ignored.matches(name)]


def uncommitted(root: Path) -> bool:
    """Whether files that the image is built from differ from the commit."""
    changed = [
        line[3:] for line in listed(root, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames")
    ]
    return bool(wanted(root, changed))


def commit(root: Path) -> str:
    """The name of the commit that is checked out; ConfigError without one."""
    return git(root, "rev-parse", "HEAD").decode().strip()


def listed(root: Path, *arguments: str) -> list[str]:
    """What git lists, with -z."""
    return [name for name in os.fsdecode(git(root, *arguments)).split("\0") if name]


def git(root: Path, *arguments: str) -> bytes:
    """What git prints; ConfigError where it cannot."""
    command = ["git", "--literal-pathspecs", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"git is needed to send the code, and cannot be run: {error}.") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise ConfigError(f"{root} is sent as git has it, but git says: {reason}. Commit first.")
    return done.stdout
