"""The arithmetic of all stages: the same bytes on every x86-64 processor with AVX2.

PyTorch, NumPy and SciPy choose kernels by the processor and the number of threads by the number of cores. Both change
rounding, and training amplifies that. So the entry point sets both by environment variables, which these libraries
read when they are imported, and which child processes inherit. `stages/README.md` lists the variables in a table.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

from stages.runtime.errors import UserError

AVX512_FEATURES = ("X86_V4", "AVX512_ICL", "AVX512_SPR")  # NumPy's names for its code beyond AVX2
# MKL computes some operations differently for each vendor's processors, except in the slower mode COMPATIBLE.
# Pretraining does not use these operations, so it does not need that mode.
MKL_COMPATIBLE_STAGES = ("extract-", "fit-")  # how their names start
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
SAME_KERNELS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "NPY_DISABLE_CPU_FEATURES": " ".join(AVX512_FEATURES),
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    # Some machines set a value because older builds need it; it is kept.
    "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE", "Haswell"),
}


def has_avx2() -> bool:
    try:
        return "avx2" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False


def fix_arithmetic(name: str, params: dict[str, Any]) -> None:
    """Sets the environment for a stage, before a numeric library is imported. params: of params.yaml, unvalidated."""
    os.environ.update(environment_variables(params, name.startswith(MKL_COMPATIBLE_STAGES)))


def environment_variables(params: dict[str, Any], compatible: bool) -> dict[str, str]:
    """The environment variables. compatible: whether MKL must compute all operations equally for every vendor."""
    found = dict.fromkeys(THREAD_VARIABLES, str(params.get("threads", 2)))
    found["MKL_DYNAMIC"] = "FALSE"  # use this number of threads even with fewer cores
    found["GOMP_SPINCOUNT"] = "1000"  # does not change results; twice as fast when other processes use the cores
    found["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # deterministic products on a GPU
    if params.get("same_bytes", True) and has_avx2():
        found |= SAME_KERNELS | {"MKL_CBWR": "COMPATIBLE" if compatible else "AVX2,STRICT"}
    return found


def verify_arithmetic(threads: int, same_bytes: bool) -> None:
    """After the imports: completes the settings, and raises UserError if a library ignores its variable.

    Prints a line if results differ from those of other machines.
    """
    import torch
    from joblib import cpu_count
    from numpy._core._multiarray_umath import __cpu_features__
    from threadpoolctl import threadpool_info, threadpool_limits

    threadpool_limits(threads, user_api="blas")  # OpenBLAS starts with no more threads than cores, despite its variable
    cores = cpu_count()  # that this process may use: a container can have fewer
    if "LOCAL_WORLD_SIZE" not in os.environ and cores > threads:  # not under torchrun, whose processes use more cores
        print(f"using {threads} of {cores} cores; `-S threads={cores}` is faster, but changes the results")
    if not same_bytes:
        return
    if not has_avx2():
        print("this processor has no AVX2: results will differ in their last digits from those of other machines")
        return
    capability = torch.backends.cpu.get_cpu_capability()
    kernels = {each["architecture"] for each in threadpool_info() if each["internal_api"] == "openblas"}
    if capability != "AVX2":
        raise UserError(f"torch uses {capability} instead of AVX2: it ignores ATEN_CPU_CAPABILITY")
    if any(__cpu_features__.get(name) for name in AVX512_FEATURES):
        raise UserError("NumPy uses AVX-512: it ignores NPY_DISABLE_CPU_FEATURES")
    if not kernels <= {"Haswell", "Zen"}:  # these two give the same bytes
        print(f"OpenBLAS uses {', '.join(sorted(kernels))} kernels: results will differ in their last digits")


def prepare_torch() -> None:
    """For training: deterministic algorithms, and an allocator that reuses freed memory."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    # This setting fills every new tensor with NaN; it only helps to find bugs and costs 8 % of the step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # By default glibc returns freed blocks to the kernel, which clears them before the next step gets them again.
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
