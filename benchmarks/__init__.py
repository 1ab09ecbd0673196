"""Sets the arithmetic of `pretrain` before a numeric library is imported."""

from pathlib import Path

from stages.runtime.arithmetic import fix_arithmetic
from stages.runtime.params import read_params

fix_arithmetic("pretrain", read_params(Path(__file__).parent.parent / "params.yaml"))
