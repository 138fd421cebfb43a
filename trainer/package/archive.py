"""Write and read packages: zip files with a manifest of every member's SHA-256 and size.

A package may come from anywhere. Reading checks names, sizes and hashes before any member is used, and nothing in a
package is code: weights are plain arrays, everything else is text.
"""

import contextlib
import hashlib
import json
import os
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from trainer.runtime.command import amount
from trainer.runtime.errors import ResourceError, StorageError
from trainer.runtime.memory import available_memory
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
COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_RATIO = 1000  # uncompressed to compressed size; weights and JSON stay far below
BULK_BYTES, BULK_RATIO = 2**26, 10  # of members that are read into memory: size from which a lower ratio is allowed
MANIFEST_BYTES = 2048  # for each member, at most
PIECE = 2**20  # bytes unpacked at a time


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


def read_package(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, bytes]:
    """The wanted members of a package by name, after checking names, file types, sizes and hashes.

    StorageError for a missing, unreadable, damaged or unsafe package; ResourceError if it does not fit in memory.
    """
    with opened(path) as package:
        infos = [info for info in package.infos if wanted(info.filename)]
        check_bulk(path, infos)
        return {info.filename: b"".join(pieces(package, info)) for info in infos}


def check_package(path: Path) -> None:
    """StorageError unless a package is whole: all that `read_package` checks, for all members, in little memory."""
    with opened(path) as package:
        for info in package.infos:
            for _ in pieces(package, info):
                pass


class Package(NamedTuple):
    """An open package whose names, sizes and layout are checked."""

    path: Path
    archive: zipfile.ZipFile
    infos: list[zipfile.ZipInfo]  # of the members, without the manifest
    hashes: dict[str, str]  # SHA-256 by member, from the manifest


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Package]:
    """Open a package; StorageError where it, or what the block reads from it, is missing, damaged or unsafe."""
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            check_listing(path, infos)
            check_layout(path, file, infos)
            yield Package(path, archive, *read_manifest(path, archive, infos))
    except FileNotFoundError:
        raise StorageError(f"There is no package at {path}. Check the path.") from None
    except OSError as error:
        raise StorageError(f"Reading {path} failed: {error.strerror or error}.") from error
    except NOT_A_PACKAGE as error:
        raise StorageError(f"{path} is not a package: {error}.") from error


def open_file(path: Path) -> BinaryIO:
    """Open a file to read. StorageError for a pipe, device or folder, which is not waited for."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise StorageError(f"{path} is not a file. Name the zip file of a package.")
    return os.fdopen(handle, "rb")


def read_manifest(
    path: Path, archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]
) -> tuple[list[zipfile.ZipInfo], dict[str, str]]:
    """The other members, and their hashes. StorageError if the manifest is of another format or lists other members."""
    info = archive.getinfo(MANIFEST)
    if info.file_size > MANIFEST_BYTES * (len(infos) + 1):
        raise StorageError(f"{path} is not a package: its manifest has {info.file_size:,} bytes.")
    manifest = json.loads(archive.read(info))
    version, listed = manifest["format_version"], manifest["members"]
    if version != FORMAT_VERSION:
        raise StorageError(f"{path} has package format {version!r}; this code reads {FORMAT_VERSION}. Update the code.")
    hashes = {name: listed[name]["sha256"] for name in listed}
    members = [info for info in infos if info.filename != MANIFEST]
    if wrong := hashes.keys() ^ {info.filename for info in members}:
        raise damaged(path, sorted(wrong)[:5])
    return members, hashes


def pieces(package: Package, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The content of a member, a piece at a time. StorageError at the end if its size or hash is not as listed."""
    sha256, size = hashlib.sha256(), 0
    with package.archive.open(info) as member:
        while piece := member.read(PIECE):
            sha256.update(piece)
            size += len(piece)
            yield piece
    if size != info.file_size or sha256.hexdigest() != package.hashes[info.filename]:
        raise damaged(package.path, [info.filename])


def damaged(path: Path, names: list[str]) -> StorageError:
    return StorageError(f"{path} is damaged: {', '.join(names)} do not match its manifest. Download it again.")


def check_bulk(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Check members that will be in memory. StorageError if a large one unpacks to many times its size, as no weights
    do; ResourceError if they do not fit, each twice: as bytes, and as what is made of them."""
    for info in infos:
        if info.file_size > BULK_BYTES and info.file_size > BULK_RATIO * info.compress_size:
            raise StorageError(
                f"{path} is not a package: {info.filename!r} unpacks to over {BULK_RATIO} times its size."
            )
    needed, free = 2 * sum(info.file_size for info in infos), available_memory()
    if needed > free:
        raise ResourceError(
            f"{path} needs about {amount(needed)} of memory; {amount(free)} are free. Use a machine with more memory."
        )


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
        if info.compress_type not in COMPRESSION:
            raise StorageError(f"{path} is not a package: {name!r} is compressed in another way than deflate.")
        if info.file_size > 2**20 and info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise StorageError(f"{path} is not a package: {name!r} unpacks to over {MAX_RATIO} times its size.")
        folded.add(folded_name)
    if clashes := [name for name in folded if any(str(above) in folded for above in PurePosixPath(name).parents)]:
        raise StorageError(f"{path} is not a package: {clashes[0]!r} is below a member that is a file.")


def check_layout(path: Path, file: BinaryIO, infos: list[zipfile.ZipInfo]) -> None:
    """StorageError for overlapping members, and for data before the first member or after the end, which another
    program may read as another archive."""
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
