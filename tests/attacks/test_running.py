"""What a hostile training cannot do: live on, take room, hide data, be recorded as another."""

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aevo.errors import AevoError, SubstrateError
from aevo.evaluate.adapters import Limits, copy_adapter
from aevo.evaluate.index import Index, read_items
from aevo.evaluate.inspection import Inspector
from aevo.evaluate.outputs import OutputLimits, check_output
from aevo.evaluate.overlap import overlap
from aevo.evaluate.untrusted import IntegrityError
from aevo.files import digest, lease
from aevo.files.documents import append_line, write_json
from aevo.files.keys import set_key
from aevo.files.untrusted import scratch_folder, there
from aevo.jobs import execute
from aevo.jobs.attempt import Attempt
from aevo.jobs.folder import JobFolder
from aevo.jobs.state import observe
from aevo.records.change import Change
from aevo.records.job import Confinement, JobKind, JobSpec, LedgerLine, Step
from aevo.sandbox import STOPPED, SandboxError, Setting, offered, probe
from aevo.substrate.frozen import open_substrate
from aevo.substrate.measured import recorded_change
from aevo.substrate.recipe import apply, dump_recipe, load_recipe
from aevo.work import shell
from tests.attacks.tables import CASES, KINDS
from tests.conftest import REGRESSION

confined = pytest.mark.skipif(probe() == "none", reason="no sandbox holds on this machine")


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    for name in ("fork", "standing"):
        open_substrate(REGRESSION).fork(tmp_path / name, [])
    return tmp_path / "fork"


def recorded(fork: Path) -> Change:
    return recorded_change(open_substrate(REGRESSION), fork, fork.parent / "standing")


def edit_recipe(fork: Path, change: Callable[[dict[str, Any]], object]) -> None:
    recipe = load_recipe(fork / "recipe.yaml")
    change(recipe)
    (fork / "recipe.yaml").write_text(yaml.safe_dump(recipe))


# What is measured is what is recorded

UNRECORDABLE: dict[str, Callable[[Path], object]] = {
    "a file deleted": lambda fork: (fork / "data" / "build.py").unlink(),
    "a key removed": lambda fork: edit_recipe(fork, lambda recipe: recipe.pop("train")),
    "a key with a dot": lambda fork: edit_recipe(
        fork, lambda recipe: recipe["train"].update({"a.b": 1})
    ),
    "an infinity": lambda fork: edit_recipe(
        fork, lambda recipe: recipe["train"].update({"clip": math.inf})
    ),
    "no number": lambda fork: edit_recipe(
        fork, lambda recipe: recipe["train"].update({"clip": math.nan})
    ),
    "a binary file": lambda fork: (fork / "data" / "x.npy").write_bytes(b"\xff\x00"),
    "an empty file": lambda fork: (fork / "data" / "x.py").write_text(""),
}


@pytest.mark.parametrize("what", UNRECORDABLE)
def test_what_no_change_can_tell_is_not_trained(what: str, fork: Path) -> None:
    UNRECORDABLE[what](fork)
    if what == "an empty file":  # told: an edit that puts nothing into a new file
        assert recorded(fork).edits[0].file == "data/x.py"
        return
    with pytest.raises(SubstrateError):
        recorded(fork)


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", None, [1], 1e-300, -0.0, "", "~"])
def test_values_that_python_calls_equal_are_told_apart(value: Any, fork: Path) -> None:
    edit_recipe(fork.parent / "standing", lambda recipe: recipe["train"].update({"clip": 1}))
    edit_recipe(fork, lambda recipe: recipe["train"].update({"clip": value}))
    change = Change.model_validate_json(recorded(fork).model_dump_json())
    if type(value) is int:
        assert change.empty
    else:
        found = change.set["train.clip"]
        assert found == value and type(found) is type(value)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-10, 10)
    | st.floats(allow_nan=False, width=32)
    | st.sampled_from(["", "1", "yes", "é", "a: b", "- x", "\n", "~", "1e5", "0x1"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["a", "b", "a.b", "1", "yes"]), inner, max_size=2)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "train.learning_rate",
        "train.clip",
        "train",
        "data.mixture",
        "data.x.y",
        "data.mixture.line",
        "new",
        "new.a",
    ]
)
TEXTS = st.lists(
    st.sampled_from(["x = 1", "y", "", "\r", "\ufeff", "é", "\u2028", "\x0c"]), max_size=6
).map("\n".join)


@pytest.mark.long(2)
@CASES
@given(
    st.lists(st.tuples(KEYS, VALUES), max_size=3),
    st.dictionaries(
        st.sampled_from(["data/build.py", "data/new.py", "train/fit.py"]), TEXTS, max_size=2
    ),
)
def test_a_recorded_change_makes_what_was_trained_or_nothing_is(
    keys: list[tuple[str, Any]], files: dict[str, str]
) -> None:
    substrate = open_substrate(REGRESSION)
    with scratch_folder("test-") as top:
        for name in ("fork", "standing", "again"):
            substrate.fork(top / name, [])
        recipe = load_recipe(top / "fork" / "recipe.yaml")
        for key, value in keys:
            set_key(recipe, key, value)
        (top / "fork" / "recipe.yaml").write_text(dump_recipe(recipe))
        for name, text in files.items():
            (top / "fork" / name).write_bytes(text.encode())
        try:
            change = recorded_change(substrate, top / "fork", top / "standing")
        except SubstrateError:
            return
        apply(Change.model_validate_json(change.model_dump_json()), top / "again", "recipe.yaml")
        for name in ("data", "train"):
            assert digest.of_tree(top / "again", [name]) == digest.of_tree(top / "fork", [name])
        again, trained = (
            yaml.safe_load((top / name / "recipe.yaml").read_text()) for name in ("again", "fork")
        )
        assert digest.of_value(again) == digest.of_value(trained)


@pytest.mark.parametrize("line", ["\n", "import json\n", "x = 1\n\n"])
def test_a_text_that_takes_for_ever_to_compare_is_recorded_whole(line: str, fork: Path) -> None:
    begun, new = time.monotonic(), line * 60_000 + "# end\n"
    (fork.parent / "standing" / "data" / "build.py").write_text("import json\n\nx = 1\n\n" * 40)
    (fork / "data" / "build.py").write_text(new)
    (edit,) = recorded(fork).edits
    assert edit.replace == new and time.monotonic() - begun < 20


# Life


def attempt_of(spec: JobSpec) -> Attempt:
    """The first attempt of a job, begun now."""
    return Attempt(JobFolder.of(spec), spec, 1, time.time())


def job(tmp_path: Path, kind: JobKind = "train") -> JobSpec:
    spec = JobSpec(
        name="c01-train-1",
        kind=kind,
        campaign="x",
        folder=str(tmp_path / "job"),
        product=str(tmp_path / "out" / "result.json"),
        steps=[],
    )
    folder = JobFolder(Path(spec.folder))
    write_json(folder.spec, spec)
    append_line(folder.ledger, LedgerLine(event="intent", name=spec.name, attempt=1, time=1.0))
    (tmp_path / "out").mkdir()
    return spec


@pytest.mark.parametrize(("kind", "phase"), [("train", "ending"), ("evaluate", "finished")])
def test_a_training_is_finished_when_it_has_ended(
    kind: JobKind, phase: str, tmp_path: Path
) -> None:
    folder = JobFolder(Path(job(tmp_path, kind).folder))
    (tmp_path / "out" / "result.json").write_text("{}")
    alive = lease.take(folder.alive)
    assert alive is not None and observe(folder).phase == phase
    alive.release()
    assert observe(folder).phase == "finished"


@pytest.mark.long(8)
@confined
@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(600)",
        "import os, time; os.fork() or os.setsid(); time.sleep(600)",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
        "import os, time; os.unlink('result.json'); open('result.json', 'w'); time.sleep(600)",
    ],
)
def test_what_goes_on_after_its_result_is_ended(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "RESULT_GRACE_S", 1.0)
    spec = job(tmp_path)
    alive = lease.take(JobFolder(Path(spec.folder)).alive)
    assert alive is not None
    step = Step(
        argv=[sys.executable, "-c", f"open('result.json', 'w').write('{{}}')\n{code}"],
        cwd=str(tmp_path / "out"),
        confine=Confinement(write=[str(tmp_path / "out")]),
    )
    begun = time.monotonic()
    with scratch_folder("test-") as scratch:
        execute._run_step(attempt_of(spec), step, [alive.fd], begun + 300, str(scratch))
    alive.release()
    while lease.held(alive.path):  # the supervisor ends the tree before itself
        assert time.monotonic() - begun < 60
        time.sleep(0.05)
    assert observe(JobFolder(Path(spec.folder))).phase == "finished"


# Room


@pytest.mark.parametrize("where", ["out", "data"])
def test_holes_count_as_what_a_copy_would_write(where: str, tmp_path: Path) -> None:
    folder = tmp_path / where
    folder.mkdir()
    KINDS["sparse"](folder / "x")
    with pytest.raises(IntegrityError):
        if where == "out":
            check_output(folder)
        else:
            Inspector(open_substrate(REGRESSION), tmp_path, [])._overlaps(
                folder, Index.of([]), math.inf
            )


@pytest.mark.long(3)
def test_a_copy_keeps_holes_and_bytes(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "source" / "adapter_model.safetensors"
    source.mkdir()
    with path.open("wb") as file:
        file.write(b"head")
        file.seek(300 << 20)
        file.write(b"tail")
        file.truncate(400 << 20)
    sha = copy_adapter(source, tmp_path / "copy")
    copied = tmp_path / "copy" / path.name
    assert copied.stat().st_size == 400 << 20
    assert copied.stat().st_blocks * 512 < 8 << 20
    assert digest.of_file(copied) == digest.of_file(path) == sha
    with pytest.raises(IntegrityError):
        copy_adapter(source, tmp_path / "other", Limits(bytes=399 << 20))


def test_checkpoints_are_capped(tmp_path: Path) -> None:
    result = {
        "status": "ok",
        "steps": 1,
        "seed": 1,
        "base_sha256": "",
        "data_sha256": "",
        "checkpoints": [{"step": i, "path": f"checkpoints/s{i}"} for i in range(65)],
    }
    for i in range(65):
        (tmp_path / "checkpoints" / f"s{i}").mkdir(parents=True)
    (tmp_path / "result.json").write_text(dump_recipe(result))
    with pytest.raises(IntegrityError):
        check_output(tmp_path)
    import json

    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(IntegrityError, match="65 checkpoints"):
        check_output(tmp_path)
    check_output(tmp_path, OutputLimits(checkpoints=65))


def test_the_search_of_data_ends_in_time_and_then_does_not_pass(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"id": "a", "prompt": "one two three four five six"}\n')
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "' + "word " * 900_000 + '"}\n')
    report = overlap(data, [items], until=time.monotonic())
    assert not report.complete and not report.clean


def test_data_hidden_as_a_cache_is_searched(tmp_path: Path) -> None:
    (tmp_path / "data" / "__pycache__").mkdir(parents=True)
    (tmp_path / "data" / "__pycache__" / "x.pyc").write_text("x")
    items = tmp_path / "items.jsonl"
    items.write_text('{"id": "a", "prompt": "one two three four five six"}\n')
    inspector = Inspector(open_substrate(REGRESSION), tmp_path, [items])
    index = Index.of(read_items([items]))
    assert len(inspector._overlaps(tmp_path / "data", index, math.inf)) == 1


BESIDE: dict[str, Callable[[Path], object]] = {
    "many folders": lambda data: list(map(Path.mkdir, (data / str(n) for n in range(100)))),
    "a long name": lambda data: (data / ("row" * 50)).write_text("x"),
    "a long name of a folder": lambda data: (data / ("row" * 50)).mkdir(),
    "an attribute": lambda data: os.setxattr(data / "train.jsonl", "user.rows", b"x"),
    "an attribute of the folder": lambda data: os.setxattr(data, "user.rows", b"x"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_no_search_reads_is_no_training_data(what: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("{}\n")
    inspector, index = Inspector(open_substrate(REGRESSION), tmp_path, []), Index.of([])
    assert len(inspector._overlaps(data, index, math.inf)) == 1
    try:
        BESIDE[what](data)
    except OSError:
        pytest.skip("this filesystem has no attributes")
    with pytest.raises(IntegrityError):
        inspector._overlaps(data, index, math.inf)


@pytest.mark.parametrize("name", ["train/fit.py", "data/rows.txt", "recipe.yaml", "data/.hidden"])
def test_items_that_the_fork_carries_are_found(name: str, fork: Path) -> None:
    items = fork.parent / "items.jsonl"
    items.write_text('{"id": "a", "prompt": "Nine swans sail past the old mill at ten"}\n')
    inspector = Inspector(open_substrate(REGRESSION), fork.parent, [items])
    index = Index.of(read_items([items]))
    assert inspector._carried(fork, index, math.inf) == []
    with (fork / name).open("a") as file:
        file.write("\n# Nine swans sail past the old mill at ten\n")
    (report,) = inspector._carried(fork, index, math.inf)
    assert report.found == ["a"]
    (late,) = inspector._carried(fork, index, 0.0)[:1]
    assert not late.clean


SPIN = "import time\nwhile time.process_time() < {}: pass"
DONE = "until [ -e done ]; do sleep 0.1; done"
BUSY = {
    "alone": f"python -c '{SPIN.format(1.5)}'",
    "together": f"for i in 1 2; do python -c '{SPIN.format(1)}' & done; wait",
    "left alone": f"(setsid bash -c \"python -c '{SPIN.format(1.5)}'; touch done\" &); {DONE}",
    "not waited for": "python -c 'import os, signal, time\n"
    "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nif os.fork() == 0:\n"
    ' while time.process_time() < 1.5: pass\n open("done", "w")\n\' & '
    f"{DONE}",
}


@pytest.mark.long(14)
@confined
@pytest.mark.parametrize("how", BUSY)
@pytest.mark.parametrize("kind", offered() or ["auto"])
def test_processor_seconds_of_a_shell_are_counted(how: str, kind: Setting, fork: Path) -> None:
    ended, said, took = shell.run_shell(BUSY[how], fork, [str(REGRESSION)], [], kind, 60)
    assert ended == "exit code 0", said
    assert took > 0.5  # the last half second of a process that nobody waits for is not seen


@confined
def test_processor_seconds_end(fork: Path) -> None:
    command = f"for i in 1 2 3; do python -c '{SPIN.format(100)}' & done; wait"
    ended, said, took = shell.run_shell(command, fork, [str(REGRESSION)], [], "auto", 90, 1)
    assert ended == f"exit code {STOPPED}" and "1 s of processor time" in said
    assert took >= 1


@pytest.mark.long(2)
@confined
def test_a_command_out_of_time_is_counted_too(fork: Path) -> None:
    command = f"python -c '{SPIN.format(100)}'"
    ended, _, took = shell.run_shell(command, fork, [str(REGRESSION)], [], "auto", 2)
    assert ended == "timed out after 2 s" and took > 0.3


@pytest.mark.long(3)
@confined
def test_room_is_used_up_over_all_shell_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = tmp_path / "fork"
    fork.mkdir()
    monkeypatch.setattr(shell, "LIMITS", shell.LIMITS.model_copy(update={"disk_gb": 0.05}))
    sizes = []
    with pytest.raises(SandboxError, match="full"):
        for number in range(20):
            shell.run_shell(
                f"head -c 20000000 /dev/urandom > {number}; sleep 1",
                fork,
                [str(REGRESSION)],
                [],
                "auto",
                60,
            )
            sizes.append(sum(path.stat().st_size for path in fork.iterdir()))
    assert len(sizes) <= 4 and sizes[-1] < 90e6


@confined
def test_no_step_finds_what_another_left_in_its_scratch(tmp_path: Path) -> None:
    spec = job(tmp_path)
    write = [str(tmp_path / "out")]
    code = (
        "import os, pathlib as p\n"
        "found = [x for name in ('HOME', 'TMPDIR') for x in p.Path(os.environ[name]).iterdir()]"
        "\np.Path(os.environ['TMPDIR'], 'left').mkdir(mode=0)\n"
        "p.Path('seen').open('a').write(f'{len(found)}\\n')"
    )
    step = Step(argv=[sys.executable, "-c", code], cwd=write[0], confine=Confinement(write=write))
    spec = spec.model_copy(update={"steps": [step, step]})
    write_json(JobFolder(Path(spec.folder)).spec, spec)
    alive = lease.take(JobFolder(Path(spec.folder)).alive)
    assert alive is not None
    with pytest.raises(AevoError, match="without leaving"):
        execute._run(attempt_of(spec), [], alive)
    alive.release()
    assert (tmp_path / "out" / "seen").read_text() == "0\n0\n"


def test_a_folder_that_may_not_be_entered_raises_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "shut"
    folder.mkdir()
    folder.chmod(0)
    assert not there(folder / "x") and not there("a\0b") and not there("x" * 5000)
    with scratch_folder("test-") as scratch:
        (scratch / "a" / "b").mkdir(parents=True)
        (scratch / "link").symlink_to(tmp_path)
        (scratch / "a").chmod(0)
    assert not scratch.exists() and os.path.lexists(tmp_path)
