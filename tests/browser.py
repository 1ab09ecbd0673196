"""Headless Chromium, to look at pages as a reader does."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")


def browse(page: Path, profile: Path) -> tuple[str, list[str], list[str]]:
    """What headless Chromium makes of a page: the DOM, what it requested beyond the file, errors of scripts."""
    log = profile / "net.json"
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--enable-logging=stderr",
            f"--log-net-log={log}", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    # The browser's own requests have no origin, a page's have its own. Killed early, the log lacks its end.
    text = log.read_text()
    try:
        events: list[dict[str, Any]] = json.loads(text)["events"]
    except json.JSONDecodeError:
        events = json.loads(text.rstrip().rstrip(",") + "]}")["events"]
    starts = [event["params"] for event in events if "initiator" in event.get("params", {})]
    requested = [start["url"] for start in starts if start["initiator"] != "not an origin"]
    return done.stdout, requested, re.findall(r'CONSOLE.*"(Uncaught .*?)"', done.stderr)
