"""Check that TensorFlow computes correctly on the GPUs of this machine: `python -m trainer.machines.gpu`."""

import contextlib
import ctypes
import os
import re
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
SIDE = 512  # of the matrices that are multiplied
LIBRARIES = {"cuda_runtime": "libcudart", "cublas": "libcublas", "cudnn": "libcudnn"}  # packages nvidia.* -> files
DRIVER = Path("/proc/driver/nvidia/version")


class Gpu(NamedTuple):
    """A GPU that has multiplied two matrices correctly."""

    name: str
    memory: int  # bytes; 0: unknown
    capability: str  # compute capability, such as 9.0


def require_gpu() -> list[Gpu]:
    """Check all GPUs of this machine, and let TensorFlow take their memory as needed, not all at once.

    ResourceError with the reason if there is no GPU, or if one cannot multiply two matrices correctly.
    """
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        raise ResourceError(f"TensorFlow sees no GPU: {'; '.join(reasons())}.")
    for device in devices:
        tf.config.experimental.set_memory_growth(device, True)
    gpus = []
    for number, device in enumerate(devices):
        details = tf.config.experimental.get_device_details(device)
        name = details.get("device_name", device.name)
        multiply(f"GPU:{number}", name)
        capability = ".".join(map(str, details.get("compute_capability", ())))
        gpus.append(Gpu(name, total_memory(number), capability))
    return gpus


def required() -> bool:
    """Whether a run must have a GPU: FLATFAB_GPU=1, as in the GPU image."""
    return os.environ.get(GPU) == "1"


def multiply(device: str, name: str) -> None:
    """Multiply two matrices on a device, such as GPU:0.

    ResourceError if that fails, if TensorFlow silently uses another device, or if the product is wrong.
    """
    left, right = (
        np.random.default_rng(0).integers(-3, 4, (2, SIDE, SIDE)).astype(np.float32)
    )  # small integers, so that sums are exact
    try:
        with tf.device(device):
            product = tf.linalg.matmul(left, right)
        result = product.numpy()
    except (tf.errors.OpError, RuntimeError) as error:
        raise ResourceError(f"{name} ({device}) cannot multiply matrices: {str(error).splitlines()[0]}") from error
    if not product.device.endswith(f"device:{device}"):
        raise ResourceError(f"{name} ({device}) cannot multiply matrices: TensorFlow used {product.device} instead.")
    if not np.array_equal(result, left @ right):
        raise ResourceError(
            f"{name} ({device}) multiplies two matrices wrongly. Do not use it: its hardware or driver is faulty."
        )


def reasons(devices: Path = Path("/dev"), driver: Path = DRIVER) -> list[str]:
    """Why TensorFlow may see no GPU, the most fundamental reason first."""
    reasons = []
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        reasons.append(f"CUDA_VISIBLE_DEVICES={hidden} hides all GPUs")
    if not any(devices.glob("nvidia[0-9]*")) and not (devices / "dxg").exists():  # dxg: a GPU in WSL
        reasons.append(
            "there is no /dev/nvidia0, so this machine has no NVIDIA GPU, or the container was started without --gpus"
        )
    elif not driver.exists() and not (devices / "dxg").exists():
        reasons.append(f"the NVIDIA driver is not loaded ({driver} is missing)")
    if not tf.test.is_built_with_cuda():
        reasons.append(
            "this TensorFlow is built for CPUs only: install requirements-gpu.txt, or use the image of fab build --gpu"
        )
    elif missing := missing_libraries():
        reasons.append(f"libraries cannot be loaded ({', '.join(missing)}): install requirements-gpu.txt again")
    return reasons or ["TF_CPP_MIN_LOG_LEVEL=0 python -m trainer.machines.gpu shows TensorFlow's own messages"]


def missing_libraries() -> list[str]:
    """The CUDA libraries that neither an installed package nor the system provides."""
    return [f"{library}.so" for package, library in LIBRARIES.items() if not is_installed(package, library)]


def is_installed(package: str, library: str) -> bool:
    """Whether a CUDA library is in an installed nvidia package, or the system can load it."""
    nvidia = find_spec("nvidia")
    folders = (nvidia.submodule_search_locations or ()) if nvidia else ()
    if any(any(Path(folder).glob(f"{package}/lib/{library}.so*")) for folder in folders):
        return True
    for version in ("12", "9", "8"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(f"{library}.so.{version}")
            return True
    return False


def total_memory(number: int) -> int:
    """The memory of a GPU in bytes, from its driver; 0 if that does not tell."""
    size, device = ctypes.c_size_t(0), ctypes.c_int(0)
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        status = (cuda.cuInit(0), cuda.cuDeviceGet(ctypes.byref(device), number))
        return 0 if any(status) or cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device) else size.value
    except (OSError, AttributeError):
        return 0


def driver_version(path: Path = DRIVER) -> str:
    """The version of the NVIDIA driver; "unknown" without one."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    version = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return version[1] if version else "unknown"


def library_versions() -> dict[str, str]:
    """The installed versions of CUDA and cuDNN; without their packages, the versions that TensorFlow was built for."""
    built = tf.sysconfig.get_build_info()
    installed = {dist.name.lower(): dist.version for dist in distributions() if dist.name.startswith("nvidia-")}

    def version(package: str, key: str) -> str:
        versions = [version for name, version in installed.items() if name.startswith(package)]
        return versions[0] if versions else f"{built.get(key, 'unknown')} (that TensorFlow was built for)"

    return {"CUDA": version("nvidia-cuda-runtime", "cuda_version"), "cuDNN": version("nvidia-cudnn", "cudnn_version")}


def say_gpus(gpus: list[Gpu]) -> None:
    """Print one line for each GPU, then the versions of driver, libraries and TensorFlow."""
    for number, gpu in enumerate(gpus):
        memory = f"{gpu.memory / 2**30:.1f} GiB" if gpu.memory else "memory unknown"
        say("gpu", f"{number}: {gpu.name}, {memory}, compute capability {gpu.capability or 'unknown'}")
    versions = {"driver": driver_version()} | library_versions() | {"TensorFlow": tf.__version__}
    say("gpu", ", ".join(f"{name} {version}" for name, version in versions.items()))


def main(argv: list[str] | None = None) -> None:
    """Multiply matrices on each GPU and print its name, memory and versions. Without a GPU, exit with code 6."""
    argument_parser("trainer.machines.gpu", main).parse_args(argv)
    say_gpus(require_gpu())


if __name__ == "__main__":
    run_command(main)
