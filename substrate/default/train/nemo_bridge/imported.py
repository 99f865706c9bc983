"""The base in megatron's format, made once from the checkpoint's Hugging Face layout.

    python -m train.nemo_bridge.imported --base BASE

Run in NVIDIA's container by whoever owns the models, before the first campaign: one process, CPU
only, memory for the whole model in bf16. It lies in BASE/megatron, which a sandbox that grants BASE
lets a training read. **A training never writes it**: trainings run a worker's code, and what one of
them made, all others would train on. Exit status: 0 there, 2 not.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.adapter import base_digest, weight_files

from train.checkpoint import write_json
from train.nemo_bridge.family import BridgeError, read_config

FOLDER = "megatron"  # in the base's own
RECORD = "import.json"
SCHEMA = 1
READ = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def location(base: Path, given: str) -> Path:
    """Where the imported base lies: `given`, or for `auto` in the base's folder."""
    return base / FOLDER if given == "auto" else Path(given)


def digest(base: Path, imported: Path) -> str:
    """sha256 of the base that was imported (eval.adapter.base_digest), which takes minutes to count
    anew for the largest models: it is read from the record where size and time of every file are
    still those of the import.

    Raises:
        BridgeError: nothing was imported there, or it is another base.
    """
    try:
        record = json.loads((imported / RECORD).read_text(encoding="utf-8"))
        known, files = str(record["base_sha256"]), record["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BridgeError(
            f"{imported}: no imported base; in the container, from the substrate's folder: "
            f"python -m train.nemo_bridge.imported --base {base} --to {imported}"
        ) from error
    if files != _files(base) and base_digest(base) != known:
        raise BridgeError(f"{imported}: made from another state of {base}; remove it and import "
                          "again")
    return known


def make(base: Path, imported: Path, convert: Callable[[Path, Path], None]) -> bool:
    """Import `base`, unless it is there; False where it was. Several at once: one does it, the
    others wait. It appears whole or not at all.

    Args:
        convert: writes a checkpoint in megatron's format of (base) into (a new folder).

    Raises:
        BridgeError, OSError: one line each.
    """
    read_config(base)
    imported.parent.mkdir(parents=True, exist_ok=True)
    with _locked(imported.with_name(f".{imported.name}.lock")):
        if (imported / RECORD).is_file():
            digest(base, imported)
            return False
        temporary = imported.with_name(f".{imported.name}.new")
        shutil.rmtree(temporary, ignore_errors=True)  # of an import that was killed
        before = _files(base)
        convert(base, temporary)
        if not any(temporary.glob("iter_*")):
            raise BridgeError(f"{temporary}: Megatron-Bridge wrote no checkpoint")
        sha = base_digest(base)
        if before != _files(base):
            raise BridgeError(f"{base}: changed during the import")
        write_json(temporary / RECORD,
                   {"schema_version": SCHEMA, "base_sha256": sha, "files": before})
        temporary.replace(imported)
    return True


def convert(base: Path, folder: Path) -> None:
    """Megatron-Bridge's own import. Code in the model's folder is not run."""
    import torch
    from megatron.bridge import AutoBridge

    AutoBridge.import_ckpt(str(base), str(folder), torch_dtype=torch.bfloat16, device_map="cpu")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.nemo_bridge.imported",
        description="Convert a Nemotron 3 checkpoint for trainer=bridge, once.",
    )
    parser.add_argument("--base", type=Path, required=True, help="checkpoint in HF layout")
    parser.add_argument("--to", default="auto", help="folder to make; auto: BASE/megatron")
    args = parser.parse_args(argv)
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    imported = location(args.base, args.to)
    try:
        made = make(args.base, imported, convert)
    except ModuleNotFoundError as error:
        print(f"train.nemo_bridge.imported: {error}: run it in NVIDIA's container", file=sys.stderr)
        return 2
    except (BridgeError, OSError) as error:
        print(f"train.nemo_bridge.imported: {error}", file=sys.stderr)
        return 2
    print(f"{imported}: {'imported' if made else 'was there'}")
    return 0


def _files(base: Path) -> dict[str, Any]:
    """Size and time of every file that is read of a base."""
    paths = [base / name for name in READ if (base / name).is_file()] + weight_files(base)
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
