"""Reading and writing records: atomic, fsynced, validated where they enter.

Guarantees: a reader sees the old document or the new one, and a folder whole or not at all; an
appended line is on disk when `append_line` returns; a last line torn by a crash is skipped by
readers and cut off by the next append. Not guaranteed: order between different files, or mutual
exclusion (use a lock).
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from aevo.errors import RecordError
from aevo.text import one_line


class Part(BaseModel):
    """A piece of a record: immutable, and refusing keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Record(Part):
    """A document of its own on disk; `schema_version` says which reader understands it."""

    schema_version: int = 1


class Foreign(BaseModel):
    """A document that a training stack writes: what aevo needs of it must validate, anything more
    is the stack's own business."""

    model_config = ConfigDict(extra="ignore", frozen=True)


R = TypeVar("R", bound=BaseModel)


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Replaces `path` with `text`, as `write_bytes` does."""
    write_bytes(path, text.encode(), mode)


def write_bytes(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replaces `path` atomically (temporary file in the same folder, fsync, rename).

    Raises:
        RecordError: the disk refused (full, read-only, no permission); `path` is as it was.
    """
    with _beside(path) as staging:
        _write_new(staging, data, mode)
        staging.replace(path)


def write_once(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Like `write_bytes`, but what is there stays: of several writers at once the first one's data
    holds, and nobody sees less than all of it.

    Raises:
        RecordError: the disk refused.
    """
    with _beside(path) as staging:
        _write_new(staging, data, mode)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(staging)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The name of a folder to make and fill: it becomes `path` when the block ends well, and is
    removed otherwise, so `path` is whole or absent. If another process was first, its one stays.

    Raises:
        RecordError: the disk refused.
    """
    with _beside(path) as staging:
        yield staging
        try:
            staging.rename(path)
        except OSError:
            if not path.exists():
                raise


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A new name in the folder of `path`, with nothing left of it afterwards."""
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield staging
        _sync_folder(path.parent)
    except OSError as error:
        raise _disk_error(path, error) from error
    finally:
        if staging.is_dir():
            shutil.rmtree(staging, ignore_errors=True)
        else:
            staging.unlink(missing_ok=True)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, record: BaseModel) -> None:
    """Writes a record as indented JSON, atomically."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


def write_yaml(path: Path, record: BaseModel, comment: str = "") -> None:
    """Writes a record as YAML (for documents people read and diff), atomically."""
    body = yaml.safe_dump(record.model_dump(mode="json"), sort_keys=False, width=100)
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    write_text(path, head + body)


def read(kind: type[R], path: Path) -> R:
    """Reads and validates a JSON or YAML record.

    Raises:
        RecordError: the file is missing, unreadable or does not validate; names field and cause.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing", f"it should hold a {kind.__name__}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} cannot be read ({error})") from error
    try:
        data = yaml.safe_load(text) if path.suffix != ".json" else json.loads(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # a date that is none, depth
        raise RecordError(
            f"{path} is not valid {path.suffix[1:]} ({one_line(str(error))})", _RESTORE
        ) from error
    return validate(kind, data, str(path))


def validate(kind: type[R], data: Any, where: str) -> R:
    """Turns outside data into a record; all problems in one line.

    Raises:
        RecordError: with each offending field and what was expected.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        mend = _STACK if issubclass(kind, Foreign) else _RESTORE
        raise RecordError(
            f"{where} is not a valid {kind.__name__} ({problems(error)})", mend
        ) from error


def problems(error: ValidationError) -> str:
    """All problems of a validation as one line: `field: message; field: message`."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'document'}: {item['msg']}" for item in error.errors()
    )


def finished(kind: type[BaseModel], path: Path) -> bool:
    """True if the record exists and validates: what 'finished' means everywhere in aevo.

    Raises:
        RecordError: the file exists but is corrupt; that is never taken for unfinished work.
    """
    if not path.exists():
        return False
    read(kind, path)
    return True


def append_line(path: Path, record: BaseModel) -> None:
    """Appends one JSON line and fsyncs; first cuts off a line torn by an earlier crash."""
    line = record.model_dump_json().encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            _cut_torn_line(file)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _disk_error(path, error) from error


def read_lines(kind: type[R], path: Path) -> list[R]:
    """Reads a JSON-lines log; a torn last line is skipped, any other bad line is an error."""
    return list(iterate_lines(kind, path))


def iterate_lines(kind: type[R], path: Path) -> Iterator[R]:
    """Like `read_lines`, one at a time."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{path}:{number} is not JSON ({error})", _RESTORE) from error
        yield validate(kind, data, f"{path}:{number}")


_STACK = "a command of the training stack wrote it: mend that command"
_RESTORE = "restore the file from a backup, or remove what it belongs to and run again"


def _cut_torn_line(file: Any) -> None:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _disk_error(path: Path, error: OSError) -> RecordError:
    return RecordError(
        f"cannot write {path} ({error.strerror or error})",
        "free space or mend permissions and run the same command again",
    )
