"""Whether TensorFlow computes on the GPUs of this machine, shown by doing so: `python -m trainer.machines.gpu`."""

import ctypes
import os
import re
from collections.abc import Iterator
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from trainer.runtime.command import argument_parser, import_tensorflow_quietly, run_command, say
from trainer.runtime.errors import ResourceError

import_tensorflow_quietly()

import numpy as np
import tensorflow as tf

GPU = "FLATFAB_GPU"  # 1: a run must have a GPU
SIDE = 512  # of the matrices whose product is computed
LIBRARIES = {"cuda_runtime": "libcudart", "cublas": "libcublas", "cudnn": "libcudnn"}  # packages nvidia.* -> files
DRIVER = Path("/proc/driver/nvidia/version")


class Gpu(NamedTuple):
    """A GPU that has computed, in words."""

    name: str
    memory: int  # bytes; 0: unknown
    capability: str  # such as 9.0


def require_gpu() -> list[Gpu]:
    """The GPUs of this machine, each of which has multiplied two matrices rightly. Their memory is taken as it is
    needed, not all at once. ResourceError with the reason where there is none or one fails."""
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        raise ResourceError(f"TensorFlow sees no GPU: {'; '.join(reasons())}.")
    for device in devices:
        tf.config.experimental.set_memory_growth(device, True)
    found = []
    for number, device in enumerate(devices):
        details = tf.config.experimental.get_device_details(device)
        name = details.get("device_name", device.name)
        multiply(f"GPU:{number}", name)
        capability = ".".join(map(str, details.get("compute_capability", ())))
        found.append(Gpu(name, total_memory(number), capability))
    return found


def required() -> bool:
    """Whether the environment says that a run must have a GPU."""
    return os.environ.get(GPU) == "1"


def multiply(device: str, name: str) -> None:
    """Multiply two matrices on a device, such as GPU:0. ResourceError where that fails, where TensorFlow silently does
    it elsewhere, or where the product is wrong."""
    left, right = np.random.default_rng(0).integers(-3, 4, (2, SIDE, SIDE)).astype(np.float32)  # sums are exact
    try:
        with tf.device(device):
            product = tf.linalg.matmul(left, right)
        numbers = product.numpy()
    except (tf.errors.OpError, RuntimeError) as error:
        raise ResourceError(f"{name} ({device}) cannot multiply matrices: {str(error).splitlines()[0]}") from error
    if not product.device.endswith(f"device:{device}"):
        raise ResourceError(f"{name} ({device}) cannot multiply matrices: TensorFlow took {product.device} for it.")
    if not np.array_equal(numbers, left @ right):
        raise ResourceError(f"{name} ({device}) multiplies two matrices wrongly. Do not use it.")


def reasons(devices: Path = Path("/dev"), driver: Path = DRIVER) -> list[str]:
    """Why TensorFlow may see no GPU, the most fundamental reason first."""
    found = []
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        found.append(f"CUDA_VISIBLE_DEVICES={hidden} hides them all")
    if not any(devices.glob("nvidia[0-9]*")) and not (devices / "dxg").exists():  # dxg: as Windows lends one to Linux
        found.append(
            "there is no /dev/nvidia0, so this machine has no NVIDIA GPU, or the container was started without --gpus"
        )
    elif not driver.exists() and not (devices / "dxg").exists():
        found.append(f"the NVIDIA driver is not loaded ({driver} is missing)")
    if not tf.test.is_built_with_cuda():
        found.append(
            "this TensorFlow is the one for CPUs: install requirements-gpu.txt, or use the image of fab build --gpu"
        )
    elif missing := missing_libraries():
        found.append(f"libraries cannot be loaded ({', '.join(missing)}): install requirements-gpu.txt anew")
    return found or ["TF_CPP_MIN_LOG_LEVEL=0 python -m trainer.machines.gpu shows what it says itself"]


def missing_libraries() -> list[str]:
    """The libraries of CUDA that are neither among the installed packages nor known to the system's loader."""
    return [f"{library}.so" for package, library in LIBRARIES.items() if not any(library_files(package, library))]


def library_files(package: str, library: str) -> Iterator[str]:
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from map(str, Path(folder).glob(f"{package}/lib/{library}.so*"))
    for version in ("12", "9", "8"):
        try:
            ctypes.CDLL(f"{library}.so.{version}")
        except OSError:
            continue
        yield f"{library}.so.{version}"


def total_memory(number: int) -> int:
    """The memory of a GPU in bytes, as its driver tells; 0 where it does not."""
    size, device = ctypes.c_size_t(0), ctypes.c_int(0)
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        asked = (cuda.cuInit(0), cuda.cuDeviceGet(ctypes.byref(device), number))
        return 0 if any(asked) or cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device) else size.value
    except (OSError, AttributeError):
        return 0


def driver_version(path: Path = DRIVER) -> str:
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", path.read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1] if found else "unknown"


def library_versions() -> dict[str, str]:
    """CUDA and cuDNN as installed beside TensorFlow; what it was built for, where they come from elsewhere."""
    built = tf.sysconfig.get_build_info()
    installed = {found.name.lower(): found.version for found in distributions() if found.name.startswith("nvidia-")}

    def version(package: str, key: str) -> str:
        of_package = [version for name, version in installed.items() if name.startswith(package)]
        return of_package[0] if of_package else f"{built.get(key, 'unknown')} (that TensorFlow was built for)"

    return {
        "CUDA": version("nvidia-cuda-runtime", "cuda_version"),
        "cuDNN": version("nvidia-cudnn", "cudnn_version"),
    }


def say_gpus(gpus: list[Gpu]) -> None:
    """Lines for people: each GPU, then what drives them."""
    for number, gpu in enumerate(gpus):
        memory = f"{gpu.memory / 2**30:.1f} GiB" if gpu.memory else "memory unknown"
        say("gpu", f"{number}: {gpu.name}, {memory}, compute capability {gpu.capability or 'unknown'}")
    versions = {"driver": driver_version()} | library_versions() | {"TensorFlow": tf.__version__}
    say("gpu", ", ".join(f"{what} {version}" for what, version in versions.items()))


def main(argv: list[str] | None = None) -> None:
    """Multiply matrices on each GPU and say what they are; exit code 6 with the reason where there is none."""
    argument_parser("trainer.machines.gpu", main).parse_args(argv)
    say_gpus(require_gpu())


if __name__ == "__main__":
    run_command(main)
