"""A run that needs a GPU is refused on a machine without one, with the reason, before anything else."""

from pathlib import Path

import pytest
import tensorflow as tf

from tests.commands import trainer
from trainer.machines import gpu
from trainer.runtime.errors import ResourceError

if tf.config.list_physical_devices("GPU"):
    pytest.skip("this machine has a GPU", allow_module_level=True)


def test_the_check_says_why_there_is_no_gpu(tmp_path: Path) -> None:
    done = trainer(tmp_path, module="trainer.machines.gpu")
    assert (done.code, done.out) == (6, "")
    assert done.err.startswith("error: TensorFlow sees no GPU: ")
    assert "/dev/nvidia0" in done.err
    assert "requirements-gpu.txt" in done.err
    assert done.err.count("\n") == 1


def test_a_run_that_must_have_a_gpu_is_refused_before_its_rows_are_read(tmp_path: Path) -> None:
    done = trainer(tmp_path, "--data=no_such_rows.json", "--run=it", FLATFAB_GPU="1")
    assert done.code == 6
    assert done.err.startswith("error: TensorFlow sees no GPU: ")
    assert not (tmp_path / "cache").exists()


def test_each_reason_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices, driver = tmp_path / "dev", tmp_path / "version"
    devices.mkdir()
    assert "there is no /dev/nvidia0" in gpu.reasons(devices, driver)[0]
    (devices / "nvidia0").touch()
    assert "the NVIDIA driver is not loaded" in gpu.reasons(devices, driver)[0]
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Fri Jan 10 10:00:00 UTC 2026\n")
    assert "this TensorFlow is built for CPUs only" in gpu.reasons(devices, driver)[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpu.reasons(devices, driver)[0] == "CUDA_VISIBLE_DEVICES=-1 hides all GPUs"

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: True)
    assert "libraries cannot be loaded (libcudart.so, libcublas.so, libcudnn.so)" in gpu.reasons(devices, driver)[0]
    monkeypatch.setattr(gpu, "missing_libraries", list)
    assert "TF_CPP_MIN_LOG_LEVEL=0" in gpu.reasons(devices, driver)[0]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Fri Jan 10 10:00:00 UTC 2026\n", "570.86.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n", "575.57.08"),
        ("another driver\n", "unknown"),
    ],
)
def test_the_version_of_the_driver_is_read(tmp_path: Path, text: str, version: str) -> None:
    path = tmp_path / "version"
    path.write_text(text)
    assert gpu.driver_version(path) == version
    assert gpu.driver_version(tmp_path / "missing") == "unknown"


def test_a_device_must_multiply_correctly(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.multiply("CPU:0", "the CPU")  # any device
    with pytest.raises(ResourceError, match=r"Phantom \(GPU:7\) cannot multiply matrices.*CPU:0"):
        gpu.multiply("GPU:7", "Phantom")
    monkeypatch.setattr(tf.linalg, "matmul", lambda left, right: tf.constant(left))
    with pytest.raises(ResourceError, match="multiplies two matrices wrongly"):
        gpu.multiply("CPU:0", "the CPU")


def test_what_it_prints_names_devices_driver_and_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.say_gpus([gpu.Gpu("NVIDIA H100", 80 * 2**30, "9.0"), gpu.Gpu("Another", 0, "")])
    out = capsys.readouterr().out
    assert "0: NVIDIA H100, 80.0 GiB, compute capability 9.0" in out
    assert "1: Another, memory unknown, compute capability unknown" in out
    for word in ("driver ", "CUDA ", "cuDNN ", f"TensorFlow {tf.__version__}"):
        assert word in out
    assert gpu.total_memory(0) == 0
