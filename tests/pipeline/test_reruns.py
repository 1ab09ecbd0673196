"""What reruns after a change: the stages that list the changed input, and later ones only if the outputs differ."""

from pathlib import Path

from tests.repository import RESULTS, Repository


def append(file: Path, line: str) -> None:
    file.write_text(f"{file.read_text()}{line}\n")


def test_a_comment_in_the_training_loop_reruns_only_pretraining_and_a_figure_only_the_report(
    repository: Repository,
) -> None:
    before = repository.bytes("metrics", "models", "data")
    append(repository.path / "stages/simclr/training.py", "# A comment.")
    append(repository.path / "stages/reporting/figures.py", "# A comment.")
    assert repository.stages_run("dvc repro") == ["pretrain", "report"]
    assert repository.bytes("metrics", "models", "data") == before


def test_a_new_probe_parameter_reruns_only_the_check_and_the_probes(repository: Repository) -> None:
    before = repository.bytes(*RESULTS)
    append(repository.path / "stages/probing/params.py", "    ridge: NonNegative = 1.0")
    run = repository.stages_run("dvc repro")
    assert sorted(run) == ["check", "fit-linear", "fit-logreg", "fit-neighbours"]
    assert repository.bytes(*RESULTS) == before
