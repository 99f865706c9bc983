"""Records survive crashes: atomic writes, torn lines, clear words for corrupt files."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from aevo.errors import RecordError
from aevo.files import documents
from aevo.files.documents import Part, Record
from tests.conftest import REPO


class Note(Record):
    text: str
    size: int = 0


class Line(Part):
    number: int


def test_record_comes_back_as_written(tmp_path: Path) -> None:
    for name in ("note.json", "note.yaml"):
        write = documents.write_json if name.endswith("json") else documents.write_yaml
        write(tmp_path / name, Note(text="Größe\n'quoted'", size=3))
        assert documents.read(Note, tmp_path / name) == Note(text="Größe\n'quoted'", size=3)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["note.json", "note.yaml"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not valid json"),
        ('{"text": 1}', "text: Input should be a valid string"),
        ('{"text": "a", "sise": 1}', "sise: Extra inputs are not permitted"),
        ("[]", "not a valid Note"),
    ],
)
def test_corrupt_record_is_named_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "note.json"
    path.write_text(text)
    with pytest.raises(RecordError) as caught:
        documents.finished(Note, path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_record_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="it should hold a Note"):
        documents.read(Note, tmp_path / "note.json")
    assert not documents.finished(Note, tmp_path / "note.json")


def test_torn_last_line_is_skipped_and_repaired(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    documents.append_line(path, Line(number=1))
    with path.open("a") as file:
        file.write('{"number": 2')
    assert documents.read_lines(Line, path) == [Line(number=1)]
    documents.append_line(path, Line(number=3))
    assert documents.read_lines(Line, path) == [Line(number=1), Line(number=3)]


def test_bad_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"number": 1}\nrubbish\n{"number": 3}\n')
    with pytest.raises(RecordError, match=r"log\.jsonl:2"):
        documents.read_lines(Line, path)


def test_a_disk_that_refuses_leaves_the_old_record_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    documents.write_json(path, Note(text="old"))
    code = (
        "import signal, sys; from pathlib import Path; from aevo.files import documents\n"
        "from tests.files.test_documents import Note; from aevo.errors import RecordError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: documents.write_json(Path(sys.argv[1]), Note(text='x' * 100_000))\n"
        "except RecordError as error: print(error); sys.exit(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        cwd=REPO,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.returncode == RecordError.code, done.stderr
    assert "cannot write" in done.stdout and "File too large" in done.stdout
    assert documents.read(Note, path) == Note(text="old")
    assert [item.name for item in tmp_path.iterdir()] == ["note.json"]
