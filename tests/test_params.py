"""params.yaml: what is accepted, and the one line that a mistake gets."""

import re
from pathlib import Path

import pytest

from stages.params import FILE, load_params

COMMITTED = (Path(__file__).parent.parent / FILE).read_text()


def load(tmp_path: Path, old: str = "", new: str = ""):
    """The committed params.yaml with one line replaced (a regular expression)."""
    text, count = re.subn(old, new, COMMITTED, count=1, flags=re.M) if old else (COMMITTED, 1)
    assert count == 1, f"{old} is not in params.yaml"
    file = tmp_path / "params.yaml"
    file.write_text(text)
    return load_params(file)


def test_defaults_are_the_source_experiments(tmp_path: Path) -> None:
    params = load(tmp_path)
    assert (params.batch_size, params.projection_dim, params.epochs) == (256, 128, 25)
    assert (params.lr, params.weight_decay) == (2e-4, 1e-4)
    assert params.first_classes == 10
    assert params.linear.model_dump() == {"batch_size": 32, "epochs": 100, "lr": 1e-3, "weight_decay": 1e-3}


@pytest.mark.parametrize("text", ["1e-05", "1e-5", "1.0e-5", "0.00001"])
def test_every_way_to_write_a_number_arrives_as_a_float(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, r"^lr: \S+", f"lr: {text}").lr == 1e-5


def test_a_whole_number_will_do_for_a_float(tmp_path: Path) -> None:
    assert load(tmp_path, r"^temperature: \S+", "temperature: 1").temperature == 1.0


MISTAKES = [
    (r"^lr: \S+", "lr: abc", "lr = 'abc' (str): input should be a valid number"),
    (r"^lr: \S+", "lr: '1e-5'", "lr = '1e-5' (str): input should be a valid number"),
    (r"^lr: \S+", "lr: 0", "lr = 0 (int): input should be greater than 0"),
    (r"^lr: \S+", "lr: -1.0e-3", "lr = -0.001 (float): input should be greater than 0"),
    (r"^lr: \S+", "lr: .nan", "lr = nan (float): input should be a finite number"),
    (r"^lr: \S+", "lr: .inf", "lr = inf (float): input should be a finite number"),
    (r"^lr: \S+", "lr: null", "lr = None (NoneType): input should be a valid number"),
    (r"^lr: \S+", "lr: [1, 2]", "lr = [1, 2] (list): input should be a valid number"),
    (r"^lr: .*\n", "", "lr is missing"),
    (r"^lr:", "learning_rate: 1\nlr:", "learning_rate is not a parameter of this pipeline"),
    (r"^batch_size: \S+", "batch_size: 1", "batch_size = 1 (int): input should be greater than or equal to 2"),
    (r"^batch_size: \S+", "batch_size: 25.6", "batch_size = 25.6 (float): input should be a valid integer"),
    (r"^batch_size: \S+", "batch_size: true", "batch_size = True (bool): input should be a valid integer"),
    (r"^epochs: \S+", "epochs: '25'", "epochs = '25' (str): input should be a valid integer"),
    (r"^epochs: \S+", "epochs: 0", "epochs = 0 (int): input should be greater than or equal to 1"),
    (r"^seed: \S+", "seed: -1", "seed = -1 (int): input should be greater than or equal to 0"),
    (r"^data: \S+", "data: imagenet", "data = 'imagenet' (str): input should be 'sample', 'cifar' or 'folder'"),
    (r"^stem: \S+", "stem: 7x7", "stem = '7x7' (str): input should be 'imagenet' or 'cifar'"),
    (r"^  flip: \S+", "  flip: yes", "augment.flip = 'yes' (str): input should be a valid boolean"),
    (r"^  blur: \S+", "  blur: 1.5", "augment.blur = 1.5 (float): input should be less than or equal to 1"),
    (r"^  min_area: \S+", "  min_area: 0", "augment.min_area = 0 (int): input should be greater than 0"),
    (r"^  C: \[.*?\]", "  C: []", "logreg.C = [] (list): list should have at least 1 item"),
    (r"^  C: \[.*?\]", "  C: [0.1, x]", "logreg.C.1 = 'x' (str): input should be a valid number"),
    (r"^  C: \[.*?\]", "  C: 0.1", "logreg.C = 0.1 (float): input should be a valid list"),
]


@pytest.mark.parametrize(("old", "new", "expected"), MISTAKES, ids=[new or old for old, new, _ in MISTAKES])
def test_a_mistake_gets_one_line_that_names_it(tmp_path: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        load(tmp_path, old, new)
    mistake, way_back = str(stopped.value.code).splitlines()
    assert f"params.yaml: {expected}" in mistake
    assert "git checkout" in way_back


def test_two_mistakes_get_a_line_each(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        load(tmp_path, r"^lr: \S+(.*\n)*?epochs: \S+", "lr: abc\nweight_decay: 0\nepochs: abc")
    assert [line.split(" = ")[0].split(": ")[1] for line in str(stopped.value.code).splitlines()[:2]] == [
        "lr",
        "epochs",
    ]


@pytest.mark.parametrize(
    "content",
    [b"lr: [", b"lr: 1\nlr: 2\n", b"\xff\xfe", b"- a list\n", b"", b"just text"],
    ids=["cut short", "duplicate key", "not UTF-8", "a list", "empty", "text"],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    with pytest.raises(SystemExit, match=r"params\.yaml: ") as stopped:
        load_params(file)
    assert len(str(stopped.value.code).splitlines()) <= 2


def test_a_missing_file_says_where_to_stand(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="root of the repository"):
        load_params(tmp_path / "params.yaml")
