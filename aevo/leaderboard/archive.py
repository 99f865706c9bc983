"""submission.zip: made by the substrate's export command, and judged before anybody gets it.

The adapter is judged as a folder (finite, fits the base, rank, names); the archive must then hold
exactly these two files, byte for byte, and nothing else.
"""

import hashlib
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from aevo.evaluate.adapters import CONFIG, WEIGHTS, Limits, check_adapter
from aevo.evaluate.lora import PREFIX
from aevo.evaluate.tensors import Tensors
from aevo.evaluate.untrusted import IntegrityError, open_file, shown
from aevo.files import digest
from aevo.jobs.foreground import run_here
from aevo.leaderboard.board import Entry
from aevo.leaderboard.site import BoardError
from aevo.records.inspection import AdapterReport
from aevo.substrate.frozen import Substrate

BLOCK = 1 << 20
HALVES = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class Rules:
    """What the scorer takes. `modules` are last names of modules, None for any; `lora`: a peft
    adapter is required, not mere tensors."""

    max_rank: int = 32
    modules: frozenset[str] | None = None
    max_bytes: int = 8 << 30
    lora: bool = True


class ArchiveError(Exception):
    """The adapter or its archive may not be submitted; one line."""


def pack(substrate: Substrate, entry: Entry, base: Path, out: Path, rules: Rules) -> str:
    """Judges the adapter, writes `out` by the substrate's export command, judges that, and returns
    its sha256. An archive that is there already is judged and kept.

    Raises:
        ArchiveError: the adapter, or the archive, is not what the scorer takes.
        JobError: the export command failed on an adapter that is in order.
        BoardError: the disk is too full.
    """
    report = judge(entry, base, rules)
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(_existing(out)).free
        if free < 2 * report.bytes:  # the export writes beside it and renames
            raise BoardError(
                f"only {free >> 20} MB are free at {out.parent}, too few for {out.name}",
                "free some, then run the same command again",
            )
        run_here(substrate.command("export", adapter=entry.adapter, out=out))
    check_archive(out, report, rules)
    return digest.of_file(out)


def judge(entry: Entry, base: Path, rules: Rules) -> AdapterReport:
    """Judges the adapter's folder.

    Raises:
        ArchiveError: not finite, too large, another rank, a name that the scorer does not know, a
            tensor that the config does not name, or not the adapter that dev scored.
    """
    try:
        report = check_adapter(entry.adapter, base, limits=Limits(rank=rules.max_rank))
        if report.kind == "lora":
            _check_modules(entry.adapter, rules)
    except IntegrityError as error:
        raise ArchiveError(str(error)) from error
    if rules.lora and report.kind != "lora":
        raise ArchiveError(f"{CONFIG} is missing: a peft LoRA adapter is asked for")
    if entry.adapter_sha256 not in report.identities:
        raise ArchiveError("the adapter is not the one that was scored on dev")
    return report


def check_archive(path: Path, report: AdapterReport, rules: Rules) -> None:
    """Checks that the archive holds the files that `report` is of, at its top, and no other.

    Raises:
        ArchiveError: anything else is in it, or it is too large or damaged.
    """
    wanted = {WEIGHTS: report.weights_sha256}
    if report.config_sha256 is not None:
        wanted[CONFIG] = report.config_sha256
    size = path.stat().st_size
    if size > rules.max_bytes:
        raise ArchiveError(f"{path.name} has {size >> 20} MiB, above {rules.max_bytes >> 20}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(info.filename for info in archive.infolist())
            if names != sorted(wanted):
                raise ArchiveError(
                    f"{path.name} holds {shown(', '.join(names))}, not exactly "
                    f"{' and '.join(sorted(wanted))} at its top"
                )
            for name, sha in wanted.items():
                if _sha256(archive, name, rules.max_bytes) != sha:
                    raise ArchiveError(f"{name} in {path.name} is not the adapter's")
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise ArchiveError(f"{path.name} is no readable zip archive ({error})") from error


def _check_modules(folder: Path, rules: Rules) -> None:
    """vLLM takes tensors named `base_model.model.<module>.lora_A.weight` (and `lora_B`) for modules
    whose last name its model class supports; it refuses the whole adapter for any other."""
    if rules.modules is None:
        return
    with Tensors(open_file(folder / WEIGHTS), Limits().bytes) as tensors:
        names = list(tensors.shapes)
    unknown = sorted({_last_name(name) for name in names} - rules.modules)
    if unknown:
        raise IntegrityError(
            f"the scorer takes no LoRA for {shown(', '.join(unknown))}; it takes "
            f"{', '.join(sorted(rules.modules))}"
        )


def _last_name(tensor: str) -> str:
    stem = tensor.removeprefix(PREFIX)
    for half in HALVES:
        stem = stem.removesuffix(half)
    return stem.rpartition(".")[2]


def _sha256(archive: zipfile.ZipFile, name: str, most: int) -> str:
    found, left = hashlib.sha256(), most
    with archive.open(name) as file:
        while block := file.read(BLOCK):
            left -= len(block)
            if left < 0:
                raise ArchiveError(f"{name} unpacks to more than {most >> 20} MiB")
            found.update(block)
    return found.hexdigest()


def _existing(path: Path) -> Path:
    return next(folder for folder in path.parents if folder.exists())
