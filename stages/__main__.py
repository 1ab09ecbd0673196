"""`python -m stages NAME`: runs a stage of dvc.yaml, or the command `predict`.

It sets the arithmetic before a numeric library is imported, checks that the stage's inputs do not change while it runs,
and turns a user's mistake or Ctrl-C into a one-line message and the command that undoes the run.
"""

import ctypes
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

from stages.runtime.arithmetic import fix_arithmetic, verify_arithmetic
from stages.runtime.errors import UserError
from stages.runtime.inputs import inputs_must_not_change, read_pipeline
from stages.runtime.params import FILE, read_params, validated

# DVC has deleted the stage's old outputs; it keeps them in its cache. HEAD, because `dvc exp run` stages its changes in
# git. touch, because DVC writes params.yaml twice within a second, while git compares sizes and times in seconds:
# without it, git misses a change to a value of the same length.
RESTORE_COMMAND = f"touch {FILE} && git checkout HEAD -- {FILE} dvc.lock && dvc repro"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # closed by `>&-`
    # So that a log shows each line immediately, and any name in any encoding.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""  # `predict` reads the other arguments
    if name == "predict":  # works in any folder, also without dvc.yaml
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `predict ... | head` ends without an error
        fix_arithmetic(name, read_params() if FILE.exists() else {})
        import_module("stages.predict").main()
        return
    end_with_dvc()
    pipeline = read_pipeline()
    if name not in pipeline:
        raise UserError(f"usage: python -m stages NAME; NAME is one of: {', '.join([*pipeline, 'predict'])}")
    try:
        content = read_params()
        fix_arithmetic(name, content)
        with inputs_must_not_change(name, pipeline[name]):  # while the code is imported
            script = import_module(f"stages.{name.replace('-', '_')}")
            params = validated(script.Params, content)
            if "threads" in pipeline[name].get("params", []):  # only stages that compute list it
                verify_arithmetic(params.threads, params.same_bytes)
        with inputs_must_not_change(name, pipeline[name]):
            script.main(params)
    except (UserError, KeyboardInterrupt) as error:
        message = str(error) or "stopped"
        # Once if torchrun started several processes, and not in a copy (DVC's queue), where nothing has to be undone.
        if os.environ.get("RANK", "0") == "0" and Path(os.environ.get("DVC_ROOT", ".")).resolve() == Path.cwd():
            message += f"\n(to go back to the committed parameters and results: `{RESTORE_COMMAND}`)"
        raise UserError(message) from None


def end_with_dvc() -> None:
    """Without DVC or torchrun the result is lost, so this process ends with them. It does not end with a shell."""
    if sys.platform == "linux" and os.environ.keys() & {"DVC_STAGE", "TORCHELASTIC_RUN_ID"}:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    try:
        main()
    except (UserError, KeyboardInterrupt) as error:
        sys.exit(str(error) or "stopped")
