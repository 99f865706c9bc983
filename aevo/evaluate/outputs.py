"""The folder that a training run left behind, before anything in it is read or followed."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aevo.evaluate.untrusted import IntegrityError, open_folder, read_bytes, relative, shown
from aevo.files import plain
from aevo.files.documents import problems
from aevo.records.scores import TrainingResult
from aevo.sandbox.grants import irregular

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a checkpoint; as the evaluator's
STATUSES = ("ok", "diverged")
COUNTS = ("steps", "tokens", "seconds", "trainable_parameters")  # of a result
MOST = 1e15
RESERVED = frozenset({"base"})  # the evaluator's name for the bare base checkpoint


@dataclass(frozen=True)
class OutputLimits:
    """What a run may leave: files, bytes of all together, of result.json, checkpoints."""

    files: int = 20_000
    bytes: int = 256 << 30
    result_bytes: int = 1 << 20
    checkpoints: int = 1000


def check_output(folder: Path, limits: OutputLimits | None = None) -> TrainingResult:
    """Judges the output folder of a finished run; returns its result as it was read.

    Guarantees, as of the moment of the call: nothing but folders and plain files with one name, of
    sane names, within the limits; result.json is valid, and its checkpoints have different names
    and steps and are folders within the output. The run's job must have ended.

    Raises:
        IntegrityError: naming what was found.
    """
    limits = limits or OutputLimits()
    os.close(open_folder(folder))
    if folder.is_symlink():
        raise IntegrityError(f"the output folder {folder} is a link")
    _check_tree(folder, limits)
    result = read_result(folder / "result.json", limits.result_bytes)
    _check_checkpoints(folder, result, limits)
    return result


def read_result(path: Path, max_bytes: int = 1 << 20) -> TrainingResult:
    """A run's result.json, read through one descriptor; NaN and infinities become None.

    Raises:
        IntegrityError: it is no plain file, too large, does not validate, or says of the run what
            no run can be.
    """
    data = read_bytes(path, max_bytes)
    limits = plain.Limits(bytes=max_bytes)
    try:
        value: Any = plain.from_json(data, "result.json", limits, nan=True)
        result = TrainingResult.model_validate(value)
    except ValidationError as error:
        text = shown(problems(error))
        raise IntegrityError(f"{path} is not a valid TrainingResult ({text})") from error
    except plain.FormError as error:
        raise IntegrityError(f"{path}: {error}") from error
    if result.status not in STATUSES:
        raise IntegrityError(f"{path}: status={shown(result.status)[:40]} is none of "
                             f"{', '.join(STATUSES)}")
    for name in COUNTS:
        if not 0 <= getattr(result, name) <= MOST:
            raise IntegrityError(f"{path}: {name} is not between 0 and {MOST:g}")
    return result


def _check_tree(folder: Path, limits: OutputLimits) -> None:
    count, total = 0, 0
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(top, name)
            if not name.isprintable() or name.startswith("-") or "\\" in name:
                raise IntegrityError(f"the run left a file with an odd name: {shown(path)}")
            count += 1
            total += path.lstat().st_size
        if count > limits.files:
            raise IntegrityError(f"the run left more than {limits.files} files in {folder}")
        if total > limits.bytes:
            raise IntegrityError(f"the run left more than {limits.bytes} bytes in {folder}")
    odd = irregular(folder)
    if odd:
        raise IntegrityError(
            f"the run left {len(odd)} link(s), twin(s), pipe(s) or device(s) in {folder}: "
            f"{shown(', '.join(odd[:5]))}")


def _check_checkpoints(folder: Path, result: TrainingResult, limits: OutputLimits) -> None:
    if len(result.checkpoints) > limits.checkpoints:
        raise IntegrityError(f"{len(result.checkpoints)} checkpoints in {folder}/result.json, "
                             f"more than {limits.checkpoints}")
    names, steps = set(), set()
    for item in result.checkpoints:
        name = relative(item.path).name
        if not NAME.fullmatch(name) or name in RESERVED:
            raise IntegrityError(f"{shown(item.path)} is no name of a checkpoint")
        # Two of one name would let one be scored and the other be submitted.
        if name in names or item.step in steps or not 0 <= item.step <= MOST:
            raise IntegrityError(f"two checkpoints are called {name} or of step {item.step}, "
                                 "or a step is negative or beyond reason")
        names.add(name)
        steps.add(item.step)
        os.close(open_folder(folder, item.path))
