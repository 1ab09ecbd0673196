"""Parameters as nobody should write them: read as they stand or refused in one line that names them."""

import json
import os
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages import check
from stages.images.sizes import SAMPLE
from stages.runtime.errors import UserError
from stages.runtime.params import FILE, WAY_BACK
from tests.bad_input import LONGEST, damages, elsewhere, examples, within  # noqa: F401 (elsewhere runs by itself)
from tests.repository import load_params

PARAMS = 250  # examples of each of 3 tests
COMMITTED = (Path(__file__).parents[2] / FILE).read_text()


def _values() -> dict[str, tuple[int, int]]:
    """Where the value of each parameter stands in the committed file; a section's is all of its lines."""
    found = {}
    for key in re.finditer(r"^(\w+):(.*(?:\n +\S.*)*)", COMMITTED, re.M):
        found[key[1]] = key.span(2)
        for inner in re.finditer(r"^ +(\w+):(.*)", key[2], re.M):
            found[f"{key[1]}.{inner[1]}"] = (key.start(2) + inner.start(2), key.start(2) + inner.end(2))
    return found


VALUES = _values()
SHORT = """
    1e-5 1e5 1. .5 5. +1 -0 -0.0 1_000 007 0o7 0x1F 0b11 1:30 .inf -.inf .nan 1e400 1e-400 ~ null yes no on off y true
    True TRUE = << @ ` % ? - : ... --- [ { ] } , # | > |2 " ' '' & &a *a ! !! !a !!str !!null 2024-01-01 [[]] {{a:b}:c}
    {a:} {?:} !!set{a} "\\0" "\\ud800" "\\x85" "\\u2028" "\\/" "\\q" '\\n' 2024-01-01T10:00:00Z 2024-01-01T10:00:00+5
"""
SURPRISES = [
    *SHORT.split(),
    *("&a [*a]", "&a {b: *a}", "{<<: {a: 1}}", "{<<: [{a: 1}, {a: 2}]}", "{a: 1, a: 2}"),
    *("!!python/object/apply:os.system [touch evil]", "!!python/object/new:os.system [touch evil]"),
    *("!!python/name:os.system", "!!omap [a: 1]", "!!pairs [a: 1]", "!!set {a, b}", "!!binary aGk="),
    *("!!int '3'", "!!float '1'", "!!str 3", "a: b", "1 # comment", "1 #", "a\0b", "a\x7fb", "\ufeff1", "1\t"),
    *("|-\n    text", "1\n...\n", "1\n---\n2", "[1,\n2]", "'" + "x" * 2000 + "'"),
]
nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda child: st.lists(child, max_size=4) | st.dictionaries(st.text(max_size=9), child, max_size=4),
    max_leaves=9,
).map(lambda value: json.dumps(value).replace("NaN", ".nan").replace("Infinity", ".inf"))
fragments = st.one_of(
    st.sampled_from(SURPRISES),
    st.integers(-9, 300).map(str),
    st.integers(-(2**53), 2**53).map(str),
    st.builds(format, st.integers(0, 2**53), st.sampled_from(["#x", "#o", "#b"])),
    st.floats().map(repr),
    st.floats(1e-6, 1).map("{:e}".format),
    st.text(max_size=12),
    st.text(max_size=12).map(json.dumps),
    st.dates().map(str),
    st.datetimes().map(str),
    nested,
    st.lists(st.floats(0, 1) | st.integers(1, 9), max_size=4).map(str),
)


def replaced(key: str, fragment: str) -> str:
    start, end = VALUES[key]
    return f"{COMMITTED[:start]} {fragment}{COMMITTED[end:]}"


def refusal(content: str | bytes) -> list[str]:
    """The lines that params.yaml with this content is refused with; none if it is read as it is written."""
    written = content.encode() if isinstance(content, str) else content
    FILE.write_bytes(written)
    before = sorted(os.listdir())
    lines: list[str] = []
    try:
        with within(120):
            params = load_params()
    except UserError as stopped:
        lines = str(stopped).splitlines()
        assert all(line.isprintable() and len(line) <= LONGEST for line in lines)
        wrong = lines[:-1] if len(lines) > 1 else lines
        assert all(line.startswith("params.yaml: ") for line in wrong)
        assert len({re.split(" = | is ", line)[0] for line in wrong}) == len(wrong)  # one for each wrong key
        assert f"`{WAY_BACK}`" in lines[-1]
    else:
        found = check.contradictions(params) + check.too_few_images(params, SAMPLE)
        assert same(YAML(typ="safe").load(FILE.read_text(encoding="utf-8")), params.model_dump())
        assert all(line.isprintable() and len(line) <= LONGEST for line in found)
    assert (FILE.read_bytes(), sorted(os.listdir())) == (written, before)
    return lines


def same(read: object, kept: object) -> bool:
    """Equal and of one type, except that a whole number will do for a float."""
    if isinstance(read, dict) and isinstance(kept, dict):
        return read.keys() == kept.keys() and all(same(read[key], kept[key]) for key in kept)
    if isinstance(read, list) and isinstance(kept, list):
        return len(read) == len(kept) and all(map(same, read, kept))
    return read == kept and (type(read) is type(kept) or (type(read), type(kept)) == (int, float))


def names(lines: list[str], key: str) -> bool:
    """Whether a refusal is about this key and no other; where the file is no YAML, a place in it will do."""
    if len(lines) > 1:
        return all(re.match(rf"params\.yaml: {key}\b", line) for line in lines[:-1])
    return bool(lines and re.search(rf"\b{key.split('.')[-1]}\b|\bline:? \d|\bposition \d", lines[0]))


@examples(PARAMS)
@given(st.sampled_from(sorted(VALUES)), fragments)
def test_a_value_is_read_as_it_is_written_or_refused_by_the_name_of_its_key(key: str, fragment: str) -> None:
    lines = refusal(replaced(key, fragment))
    assert not lines or len(fragment.splitlines()) > 1 or names(lines, key)


keys = st.sampled_from(sorted(VALUES)) | st.text(max_size=12).map(json.dumps) | st.text(max_size=40)
odd_keys = st.sampled_from(
    ["7", "~", ".nan", "<<", "[a, b]", "{a: b}", "2024-01-01", "!!binary aGk=", "&a b", "*a", "?"]
)
additions = st.builds("{}{}: {}\n".format, st.sampled_from(["", "  "]), keys | odd_keys, fragments)
edits = st.tuples(st.sampled_from(["remove", "double", "add"]), st.integers(0, 99), additions)


@examples(PARAMS)
@given(st.lists(edits, min_size=1, max_size=3))
def test_what_lines_removed_doubled_or_added_leave_is_read_or_refused(drawn: list[tuple[str, int, str]]) -> None:
    lines = COMMITTED.splitlines(keepends=True)
    for action, number, added in drawn:
        place = number % len(lines)
        lines[place : place + 1] = {"remove": [], "double": [lines[place]] * 2, "add": [added, lines[place]]}[action]
    refusal("".join(lines))


chunks = st.sampled_from(
    [
        *(b"\0", b"\t", b"\r", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"---\n", b"...\n"),
        *(b"%YAML 1.1\n---\n", b"&a ", b"*a ", b"<<: *a\n", b"!!float ", b"'", b'"', b"{", b"[", b"#", b"? ", b"- "),
    ]
)
additions_anywhere = st.builds(
    lambda at, chunk: COMMITTED.encode()[:at] + chunk + COMMITTED.encode()[at:], st.integers(0, len(COMMITTED)), chunks
)


@examples(PARAMS)
@given(damages(COMMITTED.encode()) | additions_anywhere)
def test_a_damaged_file_is_read_as_it_stands_or_refused(content: bytes) -> None:
    refusal(content)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_what_is_nested_too_deep_to_be_read_is_refused(opening: str) -> None:
    assert len(refusal(replaced("lr", opening * 500))) == 1


unreadable = st.one_of(
    st.builds("{}-{:02}-{:02}".format, st.integers(1000, 9999), st.integers(13, 99), st.integers(1, 28)),
    st.builds("{}-{:02}-{:02}".format, st.integers(1000, 9999), st.integers(1, 12), st.integers(32, 99)),
    st.builds("!!{} {}".format, st.sampled_from(["int", "float", "bool", "timestamp"]), st.sampled_from(["abc", "''"])),
    st.integers(4301, 6000).map(lambda digits: "9" * digits),
    st.integers(160, 600).map(lambda length: "!" + "a" * length + " b"),
)


@examples(50)
@given(st.sampled_from(sorted(VALUES)), unreadable)
@example("lr", "2024-13-45")
def test_a_value_that_yaml_cannot_make_is_refused_in_one_line(key: str, fragment: str) -> None:
    assert len(refusal(replaced(key, fragment))) == 1


@pytest.mark.parametrize(
    "key", ["lr", "seed", "folder", "augment", "logreg.C", "logreg.labels_per_class", "temperature"]
)
@pytest.mark.parametrize("digits", [str(2**53 + 1), "1" + "0" * 400, "0x" + "f" * 5000, "0b" + "1" * 20000])
def test_an_integer_beyond_all_sense_is_refused_by_the_name_of_its_key(key: str, digits: str) -> None:
    for fragment in (digits, f"[{digits}]", f"[{digits}, x]"):
        assert names(refusal(replaced(key, fragment)), key)


def test_a_long_unknown_key_is_refused_in_a_short_line() -> None:
    assert refusal(COMMITTED + "? [" + "abcde, " * 200 + "]\n: 1\n")


def test_aliases_of_aliases_are_not_written_out() -> None:
    lists = ["&a0 [" + "x, " * 10 + "]"] + [f"&a{depth} [" + f"*a{depth - 1}, " * 10 + "]" for depth in range(1, 6)]
    tracemalloc.start()
    try:
        assert names(refusal(replaced("lr", f"[{', '.join(lists)}]")), "lr")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
