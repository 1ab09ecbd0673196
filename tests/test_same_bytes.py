"""The same bytes on every x86-64 processor with AVX2."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import joblib
import onnx
import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.optim import AdamW
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from stages.runtime import arithmetic
from stages.runtime.arithmetic import environment_variables, has_avx2, verify_arithmetic
from stages.simclr.augmentation import augment
from stages.simclr.model import SimCLR
from stages.simclr.training import TrainingStep, evaluate, train_epoch
from tests.repository import RESULTS, ROOT, Repository

COMMITTED = Path(__file__).with_name("same_bytes.json")
AVX2 = pytest.mark.skipif(
    not has_avx2() or os.environ.get("OPENBLAS_CORETYPE", "Haswell") not in ("Haswell", "Zen"),
    reason="this processor has no AVX2, or OpenBLAS is told to use other kernels",
)


def outputs(repository: Repository) -> dict[str, str]:
    """Hashes of all outputs of a small run, without the report, which contains versions of packages.

    Metadata of models do not count.
    """
    found = {}
    for path, content in repository.bytes(*RESULTS).items():
        if path == "metrics/seeds.csv":  # not of this run
            continue
        found[path] = hashlib.md5(compared(path, content)).hexdigest()
    return found


def compared(path: str, content: bytes) -> bytes:
    if path.endswith(".onnx"):
        model = onnx.load_from_string(content)
        model.ClearField("metadata_props")
        return model.SerializeToString(deterministic=True)
    if path.startswith("models/") and path.endswith(".safetensors"):
        return content[8 + int.from_bytes(content[:8], "little") :]
    return content


@AVX2
def test_a_small_run_has_the_committed_bytes_on_this_processor(finished: Repository) -> None:
    """The hashes were made by `python -m tests.test_same_bytes` on an Intel Xeon with AVX-512."""
    assert outputs(finished) == json.loads(COMMITTED.read_text())


@AVX2
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.skipif("GenuineIntel" in Path("/proc/cpuinfo").read_text(), reason="this is one of Intel's processors")
def test_a_small_run_has_the_same_bytes_with_the_code_that_mkl_uses_on_intel_processors(
    repository: Repository, finished: Repository, tmp_path: Path
) -> None:
    shim = tmp_path / "intel.so"
    code = "int mkl_serv_intel_cpu_true(void) { return 1; }"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", shim, "-"], input=code, text=True, check=True)
    # In the mode AVX2,STRICT the result depends on the vendor.
    script = "import torch; print(torch.linspace(-9, 9, 10007).exp().numpy().tobytes().hex())"
    strict = os.environ | {"MKL_CBWR": "AVX2,STRICT"}
    native, intel = (
        subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True).stdout
        for environment in (strict, strict | {"LD_PRELOAD": str(shim)})
    )
    assert native != intel
    repository.environment |= {"LD_PRELOAD": str(shim)}
    repository.run("dvc repro --force")
    assert outputs(repository) == outputs(finished)


STEP = """
import hashlib, torch
from torch.optim import AdamW
from stages.simclr.training import loss_and_metrics
from stages.simclr.model import SimCLR

torch.manual_seed(0)
model = SimCLR("resnet18", "imagenet", 128)
optimizer = AdamW(model.parameters(), lr=2e-4, weight_decay=1e-4, fused=True)
views = (255 * torch.rand(128, 3, 32, 32)).contiguous(memory_format=torch.channels_last)
loss_and_metrics(model(views), 0.07)[0].backward()
optimizer.step()
print(hashlib.md5(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
"""


@AVX2
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="there is no qemu-x86_64 (Debian's qemu-user)")
@pytest.mark.parametrize("processor", ["Haswell", "Skylake-Client", "EPYC"])
def test_a_training_step_has_the_same_bytes_on_an_emulated_processor(processor: str) -> None:
    """Without the augmentation, because the emulator crashes in `grid_sample`."""
    step = [sys.executable, "-c", STEP]
    native, emulated = (
        subprocess.run([*before, *step], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for before in ([], ["qemu-x86_64", "-cpu", processor])
    )
    assert native == emulated


# Operations that MKL computes differently for each vendor even with MKL_CBWR=AVX2,STRICT (stages/README.md).
BY_VENDOR = {"acos", "atan", "cdist", "cholesky", "erf", "exp", "geqrf", "log", "log10", "logsumexp", "mv", "pdist",
             "sqrt", "svd", "tan"}  # fmt: skip


class Operations(TorchDispatchMode):
    """Collects the operations that depend on the processor's vendor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.by_vendor: set[str] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = operation.overloadpacket.__name__.rstrip("_")
        self.seen.add(name)
        if any(part in BY_VENDOR for part in (name, name.removeprefix("linalg_").removeprefix("_linalg_"))):
            self.by_vendor.add(name)
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            sizes = [size for x in tensors(args) if x.dim() > 1 for size in x.shape[-2:]]
            if any(size % 64 for size in sizes) or any(x.dtype == torch.float64 for x in tensors(args)):
                self.by_vendor.add(f"{name} of {sizes}")
        return operation(*args, **(kwargs or {}))


def tensors(items: tuple[object, ...]) -> Iterator[Tensor]:
    return (item for item in items if isinstance(item, Tensor))


def test_a_training_step_has_no_operation_that_mkl_computes_differently_by_vendor() -> None:
    images = torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    view = partial(augment, min_area=0.08, jitter=0.5, grayscale=0.2, blur=0.5, flip=True)
    model = SimCLR("resnet18", "imagenet", 128)
    optimizer = AdamW(model.parameters(), lr=2e-4, weight_decay=1e-4, fused=True)
    batches = (torch.arange(64),)
    rng = torch.Generator().manual_seed(1)
    with Operations() as operations:
        train_epoch(TrainingStep(model, optimizer, view, 0.07, rng), images, batches, tqdm(disable=True))
        evaluate(model, images, batches, view, rng, 0.07)
    assert {"convolution_backward", "_fused_adamw", "_log_softmax", "mm"} <= operations.seen
    assert operations.by_vendor == set()


def test_the_trace_detects_operations_that_depend_on_the_vendor() -> None:
    x = torch.rand(5, 7)
    with Operations() as operations:
        (x @ x.T).exp().logsumexp(1)
        torch.linalg.svdvals(x)
    assert operations.by_vendor == {"mm of [5, 7, 7, 5]", "exp", "logsumexp", "_linalg_svd"}


@pytest.fixture
def number_of_threads() -> Iterator[None]:
    """Is the same after the test as before."""
    with threadpool_limits(1):
        yield


@pytest.mark.usefixtures("number_of_threads")
def test_the_libraries_of_this_process_follow_their_variables() -> None:
    verify_arithmetic(2, True)


@pytest.mark.usefixtures("number_of_threads")
def test_differences_from_other_machines_are_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 64)
    verify_arithmetic(2, False)
    assert capsys.readouterr().out == "using 2 of 64 cores; `-S threads=64` is faster, but changes the results\n"
    monkeypatch.setattr(arithmetic, "has_avx2", lambda: False)
    verify_arithmetic(64, True)
    assert capsys.readouterr().out.startswith("this processor has no AVX2: results will differ")
    assert "MKL_CBWR" not in environment_variables({}, False)


def test_without_same_bytes_the_libraries_choose_their_kernels() -> None:
    found = environment_variables({"same_bytes": False, "threads": 64}, True)
    assert found["OMP_NUM_THREADS"] == "64"
    assert not found.keys() & {"MKL_CBWR", *arithmetic.SAME_KERNELS}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        found = outputs(Repository.of_small_run(Path(name)))
        COMMITTED.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
