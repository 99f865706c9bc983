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
from aevo.files.untrusted import Room, plain_tree
from aevo.records.scores import TrainingResult

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a checkpoint; as the evaluator's
STATUSES = ("ok", "diverged")
COUNTS = ("steps", "tokens", "read", "budget", "seconds", "trainable_parameters")  # of a result
MOST = 1e15
RESERVED = frozenset({"base"})  # the evaluator's name for the bare base checkpoint


@dataclass(frozen=True)
class OutputLimits:
    """What a run may leave: files, apparent bytes of all together, bytes of result.json,
    checkpoints."""

    files: int = 20_000
    bytes: int = 32 << 30
    result_bytes: int = 1 << 20
    checkpoints: int = 64


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
        raise IntegrityError(
            f"{path}: status={shown(result.status)[:40]} is none of {', '.join(STATUSES)}"
        )
    for name in COUNTS:
        if not 0 <= (getattr(result, name) or 0) <= MOST:
            raise IntegrityError(f"{path}: {name} is not between 0 and {MOST:g}")
    return result


def _check_tree(folder: Path, limits: OutputLimits) -> None:
    room = Room(files=limits.files, bytes=limits.bytes, file=limits.bytes, caches=True)
    try:
        found = plain_tree(folder, ["."], room)
    except IntegrityError as error:
        raise IntegrityError(f"the run left what it may not in {folder}: {error.what}") from error
    for path in found:
        for name in path.relative_to(folder).parts:
            if name.startswith("-") or "\\" in name:
                raise IntegrityError(f"the run left a file with an odd name: {shown(path)}")


def _check_checkpoints(folder: Path, result: TrainingResult, limits: OutputLimits) -> None:
    if len(result.checkpoints) > limits.checkpoints:
        raise IntegrityError(
            f"{len(result.checkpoints)} checkpoints in {folder}/result.json, "
            f"more than {limits.checkpoints}"
        )
    names, steps = set(), set()
    for item in result.checkpoints:
        name = relative(item.path).name
        if not NAME.fullmatch(name) or name in RESERVED:
            raise IntegrityError(f"{shown(item.path)} is no name of a checkpoint")
        # Two of one name would let one be scored and the other be submitted.
        if name in names or item.step in steps or not 0 <= item.step <= MOST:
            raise IntegrityError(
                f"two checkpoints are called {name} or of step {item.step}, "
                "or a step is negative or beyond reason"
            )
        names.add(name)
        steps.add(item.step)
        os.close(open_folder(folder, item.path))
