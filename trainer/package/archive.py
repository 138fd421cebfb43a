"""Write and read packages: zip files with a manifest of every member's SHA-256 and size.

A package may come from anywhere. Reading checks names, sizes and hashes before any member is used, and nothing in a
package is code: weights are plain arrays, everything else is text.
"""

import hashlib
import io
import json
import os
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from tokenize import TokenError

import numpy as np

from trainer.runtime.errors import StorageError
from trainer.runtime.system import disk_errors

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # fixed, so that equal members make equal packages
MAX_MEMBERS = 10_000
MAX_BYTES = 64 * 2**30
MAX_NAME_BYTES = 200  # file systems take 255
END_BYTES = 22  # end-of-central-directory record of a zip without comment; the last two are the comment's length
# What zipfile, zlib and json raise for bytes that are not a package, and what reading a malformed manifest raises.
NOT_A_PACKAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, LookupError, TypeError)
MAX_RATIO = 1000  # uncompressed to compressed size; weights and JSON stay far below


def size_of(members: Mapping[str, Path | bytes]) -> int:
    """An upper bound of the bytes that the members take in a package, without its manifest and directory."""
    return sum(len(data) if isinstance(data, bytes) else data.stat().st_size for data in members.values())


def write_package(path: Path, members: Mapping[str, Path | bytes]) -> None:
    """Write a zip of the members, bytes or files by name, and the manifest. Equal members make equal bytes."""
    manifest: dict[str, dict[str, str | int]] = {}
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members):
            data = member_bytes(members[name])
            manifest[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            archive.writestr(member_info(name), data)
        listing = {"format_version": FORMAT_VERSION, "members": manifest}
        archive.writestr(member_info(MANIFEST), json.dumps(listing, indent=2))


def member_info(name: str) -> zipfile.ZipInfo:
    """The zip entry of a member; it depends on the name alone."""
    info = zipfile.ZipInfo(name, ZIP_DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def member_bytes(source: Path | bytes) -> bytes:
    """A member's bytes. StorageError for a symbolic link, which could pull in a file that must stay private."""
    if isinstance(source, bytes):
        return source
    if source.is_symlink() or not source.is_file():
        raise StorageError(f"Cannot pack {source}: it is not a regular file. Replace it with the file itself.")
    return source.read_bytes()


def files_below(folder: Path) -> dict[str, Path]:
    """The regular files below a folder by member name, which begins with the folder's name."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder.parent).as_posix(): path for path in paths}


def read_package(path: Path) -> dict[str, bytes]:
    """The members of a package by name, after checking names, file types, sizes and hashes.

    StorageError for a missing, unreadable, damaged or unsafe package.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_listing(path, archive.infolist())
            check_layout(path, archive.infolist())
            members = {info.filename: archive.read(info) for info in archive.infolist()}
            if wrong := [info.filename for info in archive.infolist() if len(members[info.filename]) != info.file_size]:
                raise ValueError(f"{wrong[0]!r} does not have its listed size")
        manifest = json.loads(members.pop(MANIFEST))
        version, listed = manifest["format_version"], manifest["members"]
        expected = {name: listed[name]["sha256"] for name in listed}
    except FileNotFoundError:
        raise StorageError(f"There is no package at {path}. Check the path.") from None
    except OSError as error:
        raise StorageError(f"Reading {path} failed: {error.strerror or error}.") from error
    except NOT_A_PACKAGE as error:
        raise StorageError(f"{path} is not a package: {error}.") from error
    if version != FORMAT_VERSION:
        raise StorageError(f"{path} has package format {version!r}; this code reads {FORMAT_VERSION}. Update the code.")
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    if hashes != expected:
        wrong = sorted(name for name in hashes.keys() | expected.keys() if hashes.get(name) != expected.get(name))
        raise StorageError(f"{path} is damaged: {', '.join(wrong[:5])} do not match its manifest. Download it again.")
    return members


def check_listing(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """StorageError for an archive with unsafe names, file types or sizes; nothing is unpacked for that."""
    if len(infos) > MAX_MEMBERS or sum(info.file_size for info in infos) > MAX_BYTES:
        raise StorageError(f"{path} is not a package: more than {MAX_MEMBERS:,} members or {MAX_BYTES:,} bytes.")
    folded: set[str] = set()
    for info in infos:
        name = info.orig_filename
        parts = PurePosixPath(name).parts
        folded_name = unicodedata.normalize("NFC", name).casefold()
        kind = stat.S_IFMT(info.external_attr >> 16)
        if (
            not name
            or len(name.encode(errors="replace")) > MAX_NAME_BYTES
            or not name.isprintable()
            or name.startswith("/")
            or name != "/".join(parts)
            or any(part in ("..", ".") for part in parts)
            or any(character in name for character in "\\:")
            or kind not in (0, stat.S_IFREG)
            or folded_name in folded
        ):
            raise StorageError(f"{path} is not a package: unsafe member name {name[:100]!r}.")
        if info.file_size > 2**20 and info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise StorageError(f"{path} is not a package: {name!r} unpacks to over {MAX_RATIO} times its size.")
        folded.add(folded_name)
    if clashes := [name for name in folded if any(str(above) in folded for above in PurePosixPath(name).parents)]:
        raise StorageError(f"{path} is not a package: {clashes[0]!r} is below a member that is a file.")


def check_layout(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """StorageError for overlapping members, and for data before the first member or after the end, which another
    program may read as another archive."""
    with path.open("rb") as file:
        file.seek(-END_BYTES, os.SEEK_END)
        end = file.read()
    infos = sorted(infos, key=lambda info: info.header_offset)
    ends = [0, *(info.header_offset + info.compress_size for info in infos)]
    overlap = any(info.header_offset < end for info, end in zip(infos, ends, strict=False))
    if overlap or (infos and infos[0].header_offset) or not end.startswith(b"PK\5\6") or not end.endswith(b"\0\0"):
        raise StorageError(f"{path} is not a package: it has bytes outside its members, or members that overlap.")


def extract(members: Mapping[str, bytes], folder: Path) -> None:
    """Write members that `read_package` returned below a folder. StorageError or ResourceError from the disk."""
    for name, data in members.items():
        target = folder / name
        with disk_errors("writing", target, len(data)):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def weights_to_bytes(weights: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name as an uncompressed `.npz`, without pickles."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **weights)
    return buffer.getvalue()


def weights_from_bytes(data: bytes) -> dict[str, np.ndarray]:
    """The arrays that `weights_to_bytes` wrote. StorageError for anything else, pickles and compression included."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise ValueError("an array is compressed")
            members = {info.filename.removesuffix(".npy"): archive.read(info) for info in archive.infolist()}
        return {
            name: np.lib.format.read_array(io.BytesIO(member), allow_pickle=False) for name, member in members.items()
        }
    except (*NOT_A_PACKAGE, OSError, SyntaxError, TokenError, MemoryError) as error:
        raise StorageError(
            f"The package's weights cannot be read: {str(error)[:100]!r}. Download the package again."
        ) from error
