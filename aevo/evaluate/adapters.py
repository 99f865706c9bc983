"""Adapters that a run offers: judged as data, and copied so that what is scored was judged.

An adapter is `adapter_model.safetensors`, which cannot carry code, and for LoRA in the layout of
peft `adapter_config.json`, of which only values that are understood are accepted. No path or
repository that it names is followed. Neither torch nor transformers is imported.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aevo.evaluate.lora import (
    BANNED,
    REQUIRED,
    check_pairs,
    check_ranks,
    check_targets,
    judged_config,
)
from aevo.evaluate.tensors import Judgement, Tensors
from aevo.evaluate.untrusted import IntegrityError, open_file, open_folder, read_bytes, shown
from aevo.files.documents import whole_folder, write_text
from aevo.files.plain import FormError, from_json
from aevo.records.inspection import AdapterReport

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
TEXTS = (".md", ".txt")  # may lie beside them; never copied
BLOCK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What an adapter may be.

    `value` bounds every number and `norm` the Frobenius norm of each tensor. They are absolute
    sanity bounds: an honest LoRA stays below 10 and 1000, while products of numbers above 1e4 leave
    half precision. The bound relative to the weight that is changed is the evaluator's, which has
    the base at hand.
    """

    rank: int = 32
    scale: float = 1024.0  # alpha / rank
    bytes: int = 8 << 30
    tensors: int = 200_000
    config_bytes: int = 64 << 10
    text_bytes: int = 64 << 10
    value: float = 1e4
    norm: float = 1e5


def check_adapter(
    folder: Path, base: Path, base_sha256: str | None = None, limits: Limits | None = None
) -> AdapterReport:
    """Judges an adapter folder against its base checkpoint.

    A folder with a config must be a LoRA that fits the base; one without is judged as mere tensors
    (a training stack of its own kind): plain safetensors, floating point, finite, bounded.

    Args:
        base: the trusted base checkpoint, for names and shapes of its weights.
        base_sha256: digest of the base, compared with the one that config or weights name, if any.

    Raises:
        IntegrityError: naming what was found.
    """
    limits = limits or Limits()
    handle = open_folder(folder)
    try:
        ignored = _check_names(handle, folder, limits)
        config = _read_config(handle, limits)
        with Tensors(open_file(Path(WEIGHTS), handle), limits.bytes) as tensors:
            if len(tensors.shapes) > limits.tensors:
                raise IntegrityError(f"{WEIGHTS} holds more than {limits.tensors} tensors")
            rank, scale = None, None
            if config is not None:
                rank, scale = _rank_and_scale(config[0], limits)
                ranks = check_ranks(config[0], rank, scale)
                modules = check_pairs(tensors.shapes, tensors.types, rank, base, ranks)
                check_targets(config[0], modules)
                _check_base(config[0].get("base_sha256"), base_sha256)
            _check_base(tensors.metadata.get("base_sha256"), base_sha256)
            judged = _judge(tensors, limits)
            sha = tensors.sha256()
    finally:
        os.close(handle)
    return AdapterReport(
        kind="tensors" if config is None else "lora",
        weights_sha256=sha,
        config_sha256=config[1] if config else None,
        identities=identities(sha, rank, scale),
        bytes=tensors.size,
        tensors=len(tensors.shapes),
        parameters=tensors.parameters,
        rank=rank,
        largest=judged.largest,
        norm=judged.norm,
        ignored=ignored,
    )


def identities(weights_sha256: str, rank: int | None, scale: float | None) -> list[str]:
    """Digests by which an evaluation names the adapter: of the file, and, as substrate/default
    does, of the file with rank and scale, without which the tensors mean nothing."""
    if rank is None:
        return [weights_sha256]
    meaning = json.dumps([rank, scale], sort_keys=True)
    return [weights_sha256, hashlib.sha256((weights_sha256 + meaning).encode()).hexdigest()]


def copy_adapter(
    source: Path, destination: Path, limits: Limits | None = None, root: Path | None = None
) -> str:
    """Copies weights and config, nothing else, into a new folder; returns the weights' sha256.

    Each file is opened once, without following links, and what is hashed is what is written. The
    copy is not judged: `take_adapter` copies and judges.

    Args:
        root: trusted folder that `source` lies in: then no folder on the way may be a link.

    Raises:
        IntegrityError: a file is no plain file or too large; FileExistsError: there is a copy.
    """
    limits = limits or Limits()
    below = str(source.relative_to(root)) if root else "."
    handle = open_folder(root or source, below)
    try:
        destination.mkdir(parents=True)
        sha = _copy(handle, WEIGHTS, destination, limits.bytes)
        if CONFIG in os.listdir(handle):  # noqa: PTH208  a descriptor, not a path
            _copy(handle, CONFIG, destination, limits.config_bytes)
    finally:
        os.close(handle)
    return sha


def take_adapter(
    source: Path,
    destination: Path,
    base: Path,
    base_sha256: str | None = None,
    limits: Limits | None = None,
    root: Path | None = None,
) -> AdapterReport:
    """Copies an adapter, writes its config anew from what is understood, judges the copy, and only
    then gives it its name: whoever reads `destination` reads what was judged, whatever happens to
    `source`. A copy that exists already is judged again and kept.

    Raises:
        IntegrityError: naming what was found; nothing is left behind.
    """
    if destination.exists():
        return check_adapter(destination, base, base_sha256, limits)
    handle = open_folder(root or source, str(source.relative_to(root)) if root else ".")
    try:  # the copy has no other files: these are judged where they are
        _check_names(handle, source, limits or Limits())
    finally:
        os.close(handle)
    with whole_folder(destination) as copy:
        copy_adapter(source, copy, limits, root)
        _rewrite_config(copy, base, limits or Limits())
        return check_adapter(copy, base, base_sha256, limits)


def _rewrite_config(copy: Path, base: Path, limits: Limits) -> None:
    """Replaces the config, if there is one, by `judged_config`: a field that peft obeys and this
    module does not know must not reach an evaluation or a submission."""
    handle = open_folder(copy)
    try:
        config = _read_config(handle, limits)
        if config is None:
            return
        rank, scale = _rank_and_scale(config[0], limits)
        ranks = check_ranks(config[0], rank, scale)
        with Tensors(open_file(Path(WEIGHTS), handle), limits.bytes) as tensors:
            modules = check_pairs(tensors.shapes, tensors.types, rank, base, ranks)
        check_targets(config[0], modules)
    finally:
        os.close(handle)
    write_text(copy / CONFIG, json.dumps(judged_config(config[0], modules, base), indent=2) + "\n")


def _copy(folder: int, name: str, destination: Path, max_bytes: int) -> str:
    digest, left = hashlib.sha256(), max_bytes
    with (
        os.fdopen(open_file(Path(name), folder), "rb", buffering=0) as source,
        (destination / name).open("xb") as target,
    ):
        if os.fstat(source.fileno()).st_size > max_bytes:
            raise IntegrityError(f"{name} is larger than {max_bytes} bytes")
        while block := source.read(BLOCK):
            left -= len(block)
            if left < 0:
                raise IntegrityError(f"{name} is larger than {max_bytes} bytes")
            digest.update(block)
            if block.strip(b"\0"):
                target.write(block)
            else:  # a hole costs a worker nothing: it must not cost us a disk
                target.seek(len(block), os.SEEK_CUR)
        target.truncate()
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()


def _check_names(handle: int, folder: Path, limits: Limits) -> list[str]:
    """Refuses anything but the two files and small texts; returns the texts' names."""
    ignored = []
    for name in sorted(os.listdir(handle)):
        if name in (WEIGHTS, CONFIG):
            continue
        if not name.lower().endswith(TEXTS) or not name.isprintable():
            raise IntegrityError(
                f"{folder} holds {shown(name)}; an adapter is {WEIGHTS} and {CONFIG} alone"
            )
        read_bytes(Path(name), limits.text_bytes, handle)
        ignored.append(name)
    return ignored


def _read_config(handle: int, limits: Limits) -> tuple[dict[str, Any], str] | None:
    if CONFIG not in os.listdir(handle):
        return None
    data = read_bytes(Path(CONFIG), limits.config_bytes, handle)
    try:
        config = from_json(data, CONFIG)
    except FormError as error:
        raise IntegrityError(str(error)) from error
    if not isinstance(config, dict):
        raise IntegrityError(f"{CONFIG} is no JSON object")
    for key in BANNED:
        if config.get(key):
            raise IntegrityError(f"{CONFIG} has {key}, which may load code")
    for key, allowed in REQUIRED.items():
        value = config.get(key)
        if not any(value == item and type(value) is type(item) for item in allowed):
            raise IntegrityError(f"{CONFIG}: {key}={shown(value)} is not supported")
    return config, hashlib.sha256(data).hexdigest()


def _rank_and_scale(config: dict[str, Any], limits: Limits) -> tuple[int, float]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= limits.rank:
        raise IntegrityError(f"rank {shown(rank)} is not between 1 and {limits.rank}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= 1e9:
        raise IntegrityError(f"lora_alpha {shown(alpha)} is no positive number below 1e9")
    scale: float = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if scale > limits.scale:
        raise IntegrityError(f"lora_alpha / r is {scale:g}, above {limits.scale:g}")
    return rank, scale


def _check_base(named: Any, base_sha256: str | None) -> None:
    if named is not None and base_sha256 is not None and named != base_sha256:
        raise IntegrityError(
            f"the adapter is for another base checkpoint ({shown(named)[:12]}, "
            f"not {base_sha256[:12]})"
        )


def _judge(tensors: Tensors, limits: Limits) -> Judgement:
    """Reads every number once.

    Raises:
        IntegrityError: one is not finite, or out of bounds.
    """
    total = Judgement(0.0, 0.0)
    for name in tensors.shapes:
        found = tensors.judge(name)
        if not math.isfinite(found.norm):
            raise IntegrityError(f"{shown(name)} has values that are not finite")
        if found.largest > limits.value:
            raise IntegrityError(
                f"{shown(name)} has a value of {found.largest:.3g}, above {limits.value:g}"
            )
        if found.norm > limits.norm:
            raise IntegrityError(
                f"{shown(name)} has a norm of {found.norm:.3g}, above {limits.norm:g}"
            )
        total = Judgement(max(total.largest, found.largest), math.hypot(total.norm, found.norm))
    return total
