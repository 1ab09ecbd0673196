"""What reruns after a change: the stages that list the changed input, and later ones only if the outputs differ."""

from pathlib import Path

from tests.repository import RESULTS, Repository


def append(file: Path, line: str) -> None:
    file.write_text(f"{file.read_text()}{line}\n")


def test_only_changed_stages_rerun_and_give_the_same_bytes(repository: Repository) -> None:
    before = repository.bytes(*RESULTS, "report.html")
    assert "Data and pipelines are up to date" in repository.run("dvc repro")
    assert repository.run("git status --porcelain") == ""
    append(repository.path / "stages/probing/params.py", "    ridge: NonNegative = 1.0")
    assert set(repository.json("dvc status --json")) == {"check", "fit-linear", "fit-logreg", "fit-neighbours"}
    repository.run("git checkout -q stages")
    append(repository.path / "stages/simclr/training.py", "# A comment.")
    append(repository.path / "stages/reporting/figures.py", "# A comment.")
    assert repository.stages_run("dvc repro") == ["pretrain", "report"]
    assert repository.bytes(*RESULTS, "report.html") == before
