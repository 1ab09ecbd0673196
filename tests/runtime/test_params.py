"""params.yaml: valid values, and one-line errors for mistakes."""

import re
import tracemalloc
from pathlib import Path

import pytest

from stages.check import Params
from stages.runtime.errors import UserError
from stages.runtime.params import FILE
from tests.repository import ROOT, load_params

COMMITTED = (ROOT / FILE).read_text()


pytestmark = pytest.mark.usefixtures("empty_folder")


def load(old: str = "", new: str = "") -> Params:
    """The committed params.yaml with one part replaced (a regular expression)."""
    text, count = re.subn(old, lambda _: new, COMMITTED, count=1, flags=re.M) if old else (COMMITTED, 1)
    assert count == 1, f"{old} is not in params.yaml"
    FILE.write_text(text)
    return load_params()


def refusal(old: str = "", new: str = "") -> list[str]:
    """The lines of the error message, which must be short."""
    with pytest.raises(UserError) as stopped:
        load(old, new)
    lines = str(stopped.value).splitlines()
    assert all(line.isprintable() and len(line) <= 400 for line in lines)
    assert list(Path().iterdir()) == [FILE]
    return lines


def test_defaults_are_the_reference_experiments() -> None:
    params = load()
    assert (params.batch_size, params.projection_dim, params.epochs) == (256, 128, 25)
    assert (params.lr, params.weight_decay) == (2e-4, 1e-4)
    assert params.first_classes == 10
    assert params.linear.model_dump() == {"batch_size": 32, "epochs": 100, "lr": 1e-3, "weight_decay": 1e-3}


@pytest.mark.parametrize(
    ("launch", "processes"),
    [
        ("python", 1),
        ("torchrun --standalone --nproc-per-node=4", 4),
        ("torchrun --nnodes=2 --nproc_per_node=3", 6),
        ("torchrun --nproc-per-node=gpu", 1),  # unknown here; `pretrain` checks it again
    ],
)
def test_the_number_of_processes_is_read_from_launch(launch: str, processes: int) -> None:
    assert load(r"^launch: \S+", f"launch: {launch}").processes == processes


@pytest.mark.parametrize("text", ["1e-05", "1.0e-5", "0.00001"])
def test_all_spellings_of_a_number_are_read_as_a_float(text: str) -> None:
    assert load(r"^lr: \S+", f"lr: {text}").lr == 1e-5


MISTAKES = [
    ("lr", "'1e-5'", "lr = '1e-5' (str): input should be a valid number"),
    ("lr", "0", "lr = 0 (int): input should be greater than 0"),
    ("lr", ".nan", "lr = nan (float): input should be a finite number"),
    ("batch_size", "1", "batch_size = 1 (int): input should be greater than or equal to 2"),
    ("batch_size", "25.6", "batch_size = 25.6 (float): input should be a valid integer"),
    ("batch_size", "true", "batch_size = True (bool): input should be a valid integer"),
    ("launch", "pyhton", "launch = 'pyhton' (str): must be python, or torchrun with options --name=value"),
    ("launch", "torchrun --nproc-per-node=0", "launch = 'torchrun --nproc-per-node=0' (str): must be python, or"),
    ("launch", "torchrun -h", "launch = 'torchrun -h' (str): must be python, or torchrun with options --name=value"),
    ("data", "imagenet", "data = 'imagenet' (str): input should be 'sample', 'cifar' or 'folder'"),
    ("  flip", "yes", "augment.flip = 'yes' (str): input should be a valid boolean"),
    ("  blur", "1.5", "augment.blur = 1.5 (float): input should be less than or equal to 1"),
    ("  C", "[] #", "logreg.C = [] (list): list should have at least 1 item"),
    ("  C", "[1e-60] #", "logreg.C.0 = 1e-60 (float): input should be greater than or equal to 0.000000001"),
    ("  C", "[0.1, x] #", "logreg.C.1 = 'x' (str): input should be a valid number"),
]


@pytest.mark.parametrize(("key", "value", "expected"), MISTAKES, ids=[expected for *_, expected in MISTAKES])
def test_a_mistake_gets_one_line_that_names_it(key: str, value: str, expected: str) -> None:
    (line,) = refusal(rf"^{key}:(?: \S+|.*\n(?:  - .*\n)+)", f"{key}: {value}\n")
    assert line.startswith(f"params.yaml: {expected}")


def test_a_missing_and_an_unknown_key_get_a_line_each() -> None:
    assert refusal(r"^lr:", "learning_rate:") == [
        "params.yaml: lr is missing",
        "params.yaml: learning_rate is not a parameter of this pipeline; remove it, or declare it in a params.py "
        "(README.md)",
    ]


@pytest.mark.parametrize(
    "content",
    [
        *(b"lr: [", b"lr: 1\nlr: 2\n", b"\xff\xfe", b"- a list\n", b"", b"just text", b"lr: 1\n---\nlr: 2\n", b"a: \0"),
        *(b"lr: " + value for value in (b"2024-13-45", b"!!int abc", b"!!timestamp ''", b"!" + b"a" * 300 + b" b")),
        *(b"lr: " + opening * 500 for opening in (b"[", b"{a: ", b"- ", b"? ")),  # nested too deeply
        *(b"seed: " + b"9" * 5000, b"lr: *unknown", b"lr: !!python/object/apply:os.mkdir [executed]"),
    ],
)
def test_a_file_that_cannot_be_read_gives_a_one_line_error(content: bytes) -> None:
    FILE.write_bytes(content)
    with pytest.raises(UserError, match=r"^params\.yaml: ") as stopped:
        load_params()
    assert str(stopped.value).isprintable()
    assert len(str(stopped.value)) <= 400
    assert (FILE.read_bytes(), list(Path().iterdir())) == (content, [FILE])


@pytest.mark.parametrize("key", ["lr", "seed", "folder", "augment", "temperature"])
@pytest.mark.parametrize("digits", [str(2**53 + 1), "1" + "0" * 400, "0x" + "f" * 5000])
def test_a_number_out_of_bounds_gives_an_error_with_its_key(key: str, digits: str) -> None:
    for value in (digits, f"[{digits}, x]"):
        [line] = refusal(rf"^{key}:", f"{key}: {value}\nold:")[:1]
        assert line.startswith(f"params.yaml: {key} = ")


@pytest.mark.parametrize("value", ["'" + "x" * 5000 + "'", r'"a\0b"', "''"])
def test_an_invalid_folder_name_gives_a_printable_one_line_error(value: str) -> None:
    [line] = refusal(r"^folder: \S+", f"folder: {value}")
    assert line.startswith("params.yaml: folder = ")


def test_an_invalid_parameter_name_gives_a_short_line() -> None:
    assert refusal(r"\Z", "7: 1\n") == ["params.yaml: 7 is not a valid parameter name"]
    assert len(refusal(r"\Z", "? [" + "abcde, " * 200 + "]\n: 1\n")) == 1


def test_nested_yaml_aliases_are_not_expanded() -> None:
    lists = ["&a0 [" + "x, " * 10 + "]"] + [f"&a{depth} [" + f"*a{depth - 1}, " * 10 + "]" for depth in range(1, 6)]
    tracemalloc.start()
    try:
        assert refusal(r"^lr: \S+", f"lr: [{', '.join(lists)}]")[0].startswith("params.yaml: lr = ")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_missing_file_gives_an_error_that_names_the_root_of_the_repository() -> None:
    with pytest.raises(UserError, match="root of the repository"):
        load_params()
