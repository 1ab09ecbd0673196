"""The arithmetic of all stages: the same bytes on every x86-64 processor with AVX2.

PyTorch, NumPy and SciPy choose their kernels by the processor, and the number of threads by the number of cores. Both
change how numbers are rounded, and training amplifies that. So the entry point fixes both in the environment, which
these libraries read when they are imported; child processes inherit it. `stages/README.md` has the switches in a table.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

from stages.runtime.errors import UserError

AVX512 = ("X86_V4", "AVX512_ICL", "AVX512_SPR")  # NumPy's names for what it has beyond AVX2
# MKL computes some operations by the vendor of the processor unless it is told to be COMPATIBLE. Pretraining, which
# that would slow down, does without those operations.
COMPATIBLE = ("extract-features", "fit-logreg")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
SAME_KERNELS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "NPY_DISABLE_CPU_FEATURES": " ".join(AVX512),
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    # Some machines have a value for the sake of older builds; theirs stays.
    "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE", "Haswell"),
}


def has_avx2() -> bool:
    try:
        return "avx2" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False


def fix_arithmetic(name: str, params: dict[str, Any]) -> None:
    """Sets the environment for a stage, before a numeric library is imported. params: of params.yaml, unvalidated."""
    os.environ.update(switches(params, name in COMPATIBLE))


def switches(params: dict[str, Any], compatible: bool) -> dict[str, str]:
    """What the environment must hold. compatible: whether MKL is to compute all operations alike for every vendor."""
    found = dict.fromkeys(THREADS, str(params.get("threads", 2)))
    found["MKL_DYNAMIC"] = "FALSE"  # as many threads as asked for, also where there are fewer cores
    found["GOMP_SPINCOUNT"] = "1000"  # changes no result; beside other load it is twice as fast
    found["SCIPY_ARRAY_API"] = "1"  # SciPy's part in logistic regression on a GPU
    found["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # the same products again and again on a GPU
    if params.get("same_bytes", True) and has_avx2():
        found |= SAME_KERNELS | {"MKL_CBWR": "COMPATIBLE" if compatible else "AVX2,STRICT"}
    return found


def verify_arithmetic(threads: int, same_bytes: bool) -> None:
    """Raises where a library ignores its switch; prints a line where results differ from those of other machines."""
    import torch
    from numpy._core._multiarray_umath import __cpu_features__
    from threadpoolctl import threadpool_info

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # torchrun says how many processes this machine has; each would give the same advice.
    if "LOCAL_WORLD_SIZE" not in os.environ and cores > threads:
        print(f"{threads} of {cores} cores; `-S threads={cores}` is faster and gives another result")
    if not same_bytes:
        return
    if not has_avx2():
        print("this processor has no AVX2: results will differ in their last digits from those of other machines")
        return
    capability = torch.backends.cpu.get_cpu_capability()
    kernels = {each["architecture"] for each in threadpool_info() if each["internal_api"] == "openblas"}
    if capability != "AVX2":
        raise UserError(f"torch computes with {capability} in place of AVX2: it ignores ATEN_CPU_CAPABILITY")
    if any(__cpu_features__.get(name) for name in AVX512):
        raise UserError("NumPy computes with AVX-512: it ignores NPY_DISABLE_CPU_FEATURES")
    if not kernels <= {"Haswell", "Zen"}:  # which give the same bytes
        print(f"OpenBLAS computes with {', '.join(sorted(kernels))}: results will differ in their last digits")


def prepare_torch() -> None:
    """For training: deterministic algorithms, and memory that is not cleared again and again."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    # Part of that, but it only helps to find bugs: NaN in every new tensor before it is written, 8 % of the step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # glibc returns freed blocks to the kernel, which clears them when they are wanted again in the next step.
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
