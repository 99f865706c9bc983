"""Whatever a worker leaves: the trusted side reads plain files and plain values, or refuses."""

import json
import math
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aevo.errors import AevoError, SubstrateError
from aevo.evaluate.criterion import criterion_of
from aevo.evaluate.outputs import read_result
from aevo.evaluate.tensors import Tensors
from aevo.files import digest
from aevo.files.paths import CandidateLayout
from aevo.files.plain import FormError, check, from_json, from_yaml, is_plain
from aevo.files.untrusted import (
    IntegrityError,
    Room,
    open_file,
    plain_tree,
    read_end,
    read_text,
    visible_files,
)
from aevo.records.trace import ToolCall, Trace
from aevo.substrate.frozen import open_substrate
from aevo.substrate.measured import recorded_change
from aevo.substrate.recipe import dump_recipe, load_recipe
from aevo.view import table
from aevo.work.library import Library
from aevo.work.teacher import Desk
from aevo.work.tools import Toolbox
from tests.attacks.tables import CASES, JSON_FORMS, KINDS, YAML_FORMS
from tests.conftest import REGRESSION

SOON_S = 25.0
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """Nothing that is read may hold up its reader."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < SOON_S * int(os.environ.get("AEVO_CASES", "100")) / 100


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    """A fork of the regression substrate, and what its trial stands on beside it."""
    for name in ("fork", "standing"):
        open_substrate(REGRESSION).fork(tmp_path / name, [])
    return tmp_path / "fork"


class _NoBroker:
    """What the file tools need of a broker: that nobody is there to be asked."""

    rows, sealed, sandbox = None, (), "auto"
    desk = Desk(Library(None, []), None, Trace(Path("no-trace.jsonl")), 0)


def tools(fork: Path) -> Toolbox:
    return Toolbox(fork, open_substrate(REGRESSION), _NoBroker())  # type: ignore[arg-type]


def call(fork: Path, name: str, **arguments: Any) -> str:
    return tools(fork).call(ToolCall(id="1", name=name, arguments=arguments))


@kinds
def test_every_reader_refuses_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    KINDS[kind](path)
    for reader in (lambda: read_text(path), lambda: load_recipe(path), lambda: read_result(path)):
        with pytest.raises(AevoError):
            reader()
    assert len(read_end(path, 100)) <= 100
    if kind not in ("folder", "binary"):
        with pytest.raises(IntegrityError):
            plain_tree(tmp_path, ["it"])


@pytest.mark.long(3)
@kinds
@pytest.mark.parametrize("place", ["recipe.yaml", "data/build.py", "data/new.py", "train"])
def test_tools_answer_whatever_lies_in_the_fork(kind: str, place: str, fork: Path) -> None:
    path = fork / place
    if path.is_dir():
        path.rename(path.with_name("gone"))
    path.unlink(missing_ok=True)
    KINDS[kind](path)
    answers = [
        call(fork, "list_files"),
        call(fork, "list_files", path=place),
        call(fork, "read_file", path=place),
        call(fork, "search", pattern="import"),
        call(fork, "search", pattern="x", path=place),
        call(fork, "edit_file", path=place, find="x", replace="y"),
    ]
    assert all(len(answer) < 20_000 for answer in answers)
    assert "root:" not in "".join(answers)
    if kind not in ("folder",) or place == "recipe.yaml":
        with pytest.raises(AevoError):
            recorded_change(open_substrate(REGRESSION), fork, fork.parent / "standing")


@kinds
def test_status_shows_nothing_of_what_is_no_metrics(kind: str, tmp_path: Path) -> None:
    here = CandidateLayout(tmp_path)
    here.run(1).metrics.parent.mkdir(parents=True)
    KINDS[kind](here.run(1).metrics)
    assert table._progress(here, 1) == ""


@pytest.mark.parametrize(
    "line",
    [
        *JSON_FORMS.values(),
        '{"step": "\x1b[2J", "loss": 1}',
        "[]",
        '{"step": 1, "loss": null}',
        '{"step": 1e308, "loss": "1"}',
    ],
)
def test_status_survives_every_line_of_metrics(line: str, tmp_path: Path) -> None:
    here = CandidateLayout(tmp_path)
    here.run(1).metrics.parent.mkdir(parents=True)
    here.run(1).metrics.write_text(line + "\n")
    assert table._progress(here, 1).isprintable()


def test_a_folder_behind_a_link_is_no_part_of_a_fork(fork: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "build.py").write_text("secret")
    (fork / "data" / "build.py").unlink()
    (fork / "data").rename(fork / "gone")
    (fork / "data").symlink_to(tmp_path / "elsewhere")
    for name in ("data", "data/build.py"):
        with pytest.raises(IntegrityError):
            plain_tree(fork, [name])
    assert "secret" not in call(fork, "read_file", path="data/build.py")


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"a\x1b[2Jb", "a\u202eb".encode()])
def test_a_name_that_cannot_be_shown_is_refused(name: bytes, fork: Path) -> None:
    (Path(os.fsdecode(os.path.join(os.fsencode(fork / "data"), name)))).write_text("x")  # noqa: PTH118
    with pytest.raises(SubstrateError):
        recorded_change(open_substrate(REGRESSION), fork, fork.parent / "standing")
    assert call(fork, "list_files").isascii()
    call(fork, "search", pattern="x").encode()


def test_a_tree_has_its_room(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    os.truncate(tmp_path / "a", 1000)
    (tmp_path / "b").write_bytes(b"x" * 10)
    deep = tmp_path / "/".join("d" * 40)
    deep.mkdir(parents=True)
    (tmp_path / "d" / "c").write_text("")
    for names, room in (
        (["a"], Room(file=999)),
        (["a", "b"], Room(bytes=1009)),
        (["a", "b"], Room(files=1)),
        (["d"], Room()),
    ):
        with pytest.raises(IntegrityError):
            plain_tree(tmp_path, names, room)
    assert len(plain_tree(tmp_path, ["a", "b", "missing"], Room(bytes=1010))) == 2
    assert len(visible_files(tmp_path, 2)) == 2


def test_names_that_no_path_can_have(tmp_path: Path) -> None:
    for name in ("a\0b", "x" * 5000, "\ud800", "../" * 400):
        with pytest.raises(IntegrityError):
            open_file(tmp_path / name)


@pytest.mark.long(5)
@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(a|a)*b",
        r"(.*)*\1x",
        "(",
        "[",
        "(?P<x",
        "x{99999999999}",
        "(" * 5000,
        "\\",
        "(?<=a+)b",
        "a" * 100_000,
    ],
)
def test_a_search_ends_whatever_it_is_asked(
    pattern: str, fork: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aevo.work.tools.SEARCH_S", 3.0)
    (fork / "data" / "long.txt").write_text("a" * 5000 + "!\n" + "\n" * 1_000_000)
    answer = call(fork, "search", pattern=pattern, path="data/long.txt")
    assert answer == "no match" or answer.startswith("error: "), answer[:100]


def test_tools_still_do_their_work(fork: Path) -> None:
    assert call(fork, "search", pattern="^def draw", path="frozen/eval") == (
        "frozen/eval/domains.py:11: def draw(domain: str, n: int, seed: int, held_out: bool) "
        "-> tuple[np.ndarray, np.ndarray]:"
    )
    assert call(fork, "read_file", path="data/build.py", first_line=2, lines=2, numbers=False) == (
        "\nimport json\n[… data/build.py has 27 lines; read on with first_line …]"
    )
    assert "data/build.py" in call(fork, "list_files")
    assert call(
        fork, "edit_file", path="data/build.py", find="import sys", replace="import sys  # x"
    ).endswith("edited")
    change = recorded_change(open_substrate(REGRESSION), fork, fork.parent / "standing")
    assert [edit.file for edit in change.edits] == ["data/build.py"]


@pytest.mark.parametrize("form", YAML_FORMS)
def test_a_recipe_that_is_no_plain_data_is_refused(form: str, fork: Path) -> None:
    (fork / "recipe.yaml").write_text(YAML_FORMS[form])
    with pytest.raises(SubstrateError):
        load_recipe(fork / "recipe.yaml")
    with pytest.raises(FormError):
        from_yaml(YAML_FORMS[form], "it")


@pytest.mark.parametrize("form", JSON_FORMS)
def test_json_that_is_no_plain_data_is_refused(form: str, tmp_path: Path) -> None:
    with pytest.raises(FormError):
        from_json(JSON_FORMS[form].encode(), "it")
    (tmp_path / "result.json").write_text(JSON_FORMS[form])
    with pytest.raises(IntegrityError):
        read_result(tmp_path / "result.json")


RESULT = {
    "status": "ok",
    "steps": 3,
    "checkpoints": [{"step": 1, "path": "checkpoints/a"}],
    "final_loss": 0.5,
    "seed": 1,
    "base_sha256": "b",
    "data_sha256": "d",
    "seconds": 1.0,
}


@pytest.mark.parametrize(
    "field",
    [
        {"steps": -1},
        {"steps": 10**17},
        {"steps": 1.5},
        {"steps": "x"},
        {"seconds": -1.0},
        {"seconds": 1e300},
        {"tokens": -5},
        {"status": "nan"},
        {"status": ""},
        {"status": "OK\n"},
        {"status": None},
        {"checkpoints": None},
        {"checkpoints": [{"step": None, "path": ""}]},
        {"seed": []},
        {"trainable_parameters": 10**18},
    ],
)
def test_a_result_that_no_run_has_is_refused(field: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RESULT))
    read_result(path)
    path.write_text(json.dumps(RESULT | {"final_loss": math.nan}))
    assert read_result(path).final_loss is None  # what a run that diverged writes
    path.write_text(json.dumps(RESULT | field))
    with pytest.raises(IntegrityError):
        read_result(path)


@pytest.mark.parametrize(
    "select",
    [
        {"criterion": "best"},
        {"criterion": ["dev"]},
        {"criterion": {}},
        {"weights": {"a": 0}},
        {"weights": {"a": 0.0, "b": 0}},
        {"weights": {"a": math.inf}},
        {"weights": {"a": math.nan}},
        {"weights": {"a": -1}},
        {"weights": {"a": 1e300}},
        {"weights": {"a": "1"}},
        {"weights": {"a": True}},
        {"weights": [1]},
        {"weights": "a"},
    ],
)
def test_a_criterion_that_chooses_nothing_is_refused(select: dict[str, Any]) -> None:
    with pytest.raises(SubstrateError):
        criterion_of({"select": select})


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(categories=["L", "N", "P"]), max_size=9), inner, max_size=4
        )
    ),
    max_leaves=20,
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.complex_numbers()
    | st.frozensets(st.integers()),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers() | st.none() | st.binary(), inner)
    ),
    max_leaves=20,
)
# Text that is nearly YAML: its signs and words in any order.
NEARLY = st.lists(
    st.sampled_from(
        [
            "a",
            "b",
            ": ",
            ":",
            "- ",
            "\n",
            "  ",
            "[",
            "]",
            "{",
            "}",
            ",",
            "&a ",
            "*a",
            "!!int ",
            "!!set",
            "!x ",
            '"',
            "'",
            "\\",
            "\\ud800",
            "1",
            "0x",
            "1e9",
            ".inf",
            "2026-01-01",
            "~",
            "yes",
            "<<",
            "---\n",
            "...",
            "? ",
            "|\n",
            ">",
            "%",
            "#",
            "@",
            "\t",
            "\ufeff",
            "\u2028",
            "\x85",
            "é",
            "1_0",
            "=",
            "0o7",
            "09",
            "-",
            "+",
            ".",
            "e",
        ]
    ),
    max_size=25,
).map("".join)


@CASES
@given(
    st.binary(max_size=300)
    | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass"))
    | NEARLY.map(str.encode)
)
def test_any_bytes_are_plain_values_or_refused(data: bytes) -> None:
    for parse in (from_json, from_yaml):
        try:
            value = parse(data, "it")
        except FormError as error:
            assert str(error).isascii()
            continue
        assert is_plain(value)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@CASES
@given(NEARLY)
def test_yaml_means_what_a_training_reads_in_it(text: str) -> None:
    """The substrate reads the same file with its own reader: it must find the same there."""
    try:
        value = from_yaml(text, "it")
    except FormError:
        return
    assert digest.of_value(value) == digest.of_value(yaml.safe_load(text))


@CASES
@given(
    st.dictionaries(
        st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=9), PLAIN, max_size=5
    )
)
def test_plain_values_survive_being_written(value: dict[str, Any]) -> None:
    assert digest.of_value(from_json(json.dumps(value).encode(), "it")) == digest.of_value(value)
    assert digest.of_value(from_yaml(dump_recipe(value), "it")) == digest.of_value(value)


@CASES
@given(ANYTHING)
def test_check_refuses_or_leaves_what_json_can_say(value: Any) -> None:
    try:
        check(value, "it")
    except FormError:
        return
    assert json.loads(json.dumps(value, allow_nan=False)) == value


HEADERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "__metadata__", "dtype", "shape", "data_offsets", "\ud800", ""]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F8_E4M3", ""]) | st.integers(),
        "shape": st.lists(st.integers(-2, 2**70) | st.floats() | st.booleans(), max_size=3),
        "data_offsets": st.lists(st.integers(-8, 64), max_size=3),
    }
)


@CASES
@given(
    HEADERS | st.dictionaries(st.text(max_size=4), ENTRIES | HEADERS, max_size=3),
    st.integers(0, 64),
    st.none() | st.integers(0, 2**64 - 1),
)
def test_any_weights_are_read_or_refused(
    tmp_path: Path, header: Any, values: int, length: int | None
) -> None:
    text = json.dumps(header).encode()
    size = len(text) if length is None else length
    path = tmp_path / "weights"
    path.write_bytes(struct.pack("<Q", size) + text + b"\0" * values)
    try:
        with Tensors(open_file(path), 1 << 20) as tensors:
            for name in tensors.shapes:
                tensors.judge(name)
    except IntegrityError as error:
        assert str(error).isascii()
    with pytest.raises(IntegrityError):
        read_result(path)
