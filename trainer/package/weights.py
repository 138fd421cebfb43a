"""Write and read the weights of a package: plain arrays in an uncompressed `.npz`, without pickles."""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.package.archive import MAX_MEMBERS, NOT_A_PACKAGE, check_layout
from trainer.runtime.errors import StorageError

Array = npt.NDArray[Any]

LOCAL_HEADER = 30  # bytes before the name of a member; the last four are the lengths of the name and of a further field
ARRAY_HEADER = 2**14  # more than the bytes before the values of an array


def weights_to_bytes(weights: Mapping[str, Array]) -> bytes:
    """Arrays by name as an uncompressed `.npz`, without pickles."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **weights)
    return buffer.getvalue()


def weights_from_bytes(data: bytes) -> dict[str, Array]:
    """The arrays that `weights_to_bytes` wrote, as views of the bytes. StorageError for anything else: pickles,
    compression, members that overlap, arrays that are larger or smaller than their member."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
        check_layout(Path("weights.npz"), io.BytesIO(data), infos)
        if len(infos) > MAX_MEMBERS or len({info.filename for info in infos}) < len(infos):
            raise ValueError("too many arrays, or two of one name")
        return {info.filename.removesuffix(".npy"): array_of(data, info) for info in infos}
    except (*NOT_A_PACKAGE, OSError, SyntaxError, TokenError, MemoryError, StorageError) as error:
        raise StorageError(
            f"The package's weights cannot be read: {str(error)[:100]!r}. Download the package again."
        ) from error


def array_of(data: bytes, info: zipfile.ZipInfo) -> Array:
    """The array of a member. Its bytes are neither copied nor checked: the package's hash covers them."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
        raise ValueError("an array is compressed or encrypted")
    start = info.header_offset + LOCAL_HEADER
    start += sum(int.from_bytes(data[start - back : start - back + 2], "little") for back in (4, 2))
    header = io.BytesIO(data[start : start + min(info.file_size, ARRAY_HEADER)])
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran_order, dtype = read_header[np.lib.format.read_magic(header)](header)
    count = math.prod(shape)
    if dtype.hasobject or count * dtype.itemsize != info.file_size - header.tell():
        raise ValueError("an array is a pickle, or does not have its listed size")
    values = np.frombuffer(data, dtype, count, start + header.tell())
    return values.reshape(shape, order="F" if fortran_order else "C")
