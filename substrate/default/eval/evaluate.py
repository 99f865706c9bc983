"""Score adapters on a fixed set of items. Trusted: nothing of a fork is imported.

    python -m eval.evaluate --items items.jsonl --base base/tiny --out OUT \\
        --adapter step-000200=OUT/checkpoints/step-000200 [--include-base] [--decoder hf]

Writes OUT/<NAME>.predictions.jsonl for each adapter and, last, OUT/scores.json. Each adapter is
validated, merged into the base and decoded greedily; the base is loaded once. A refused adapter
gets `{"error": ...}` and the others go on. Run again after a kill, finished predictions are kept.

Decoders: `auto` is eval.decode where it knows the architecture, else `hf`, which is transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.metric import extract, has_box, verify

if TYPE_CHECKING:
    from torch import Tensor

    from eval.adapter import Adapter
    from eval.chat import Chat
    from eval.hf import HfDecoder

SCHEMA = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
BASE_NAME = "base"


class EvaluationError(ValueError):
    """The items or the base are not usable; one line."""


@dataclass
class Evaluator:
    """A base model and a set of items; adapters are scored one after another."""

    items: list[dict[str, Any]]
    base: Path
    config: dict[str, Any]
    chat: Chat
    shapes: dict[str, tuple[int, ...]]
    weights: dict[str, Tensor] | None  # None: transformers decodes
    transformers: HfDecoder | None
    max_new: int
    prompts: list[list[int]]

    def outputs(self, adapter: Adapter | None) -> list[str]:
        """The text that the model gives for each item.

        Raises:
            AdapterError: the adapter cannot be merged.
        """
        from eval.adapter import merge
        from eval.decode import LlamaDecoder

        eos = self.chat.eos_ids
        if self.transformers is not None:
            ids = self.transformers.generate(
                adapter, self.prompts, self.max_new, eos, self.chat.pad_id
            )
        else:
            weights = self.weights or {}
            if adapter is not None:
                weights = merge(weights, adapter)
            decoder = LlamaDecoder(self.config, weights, _device())
            ids = decoder.generate(self.prompts, self.max_new, eos)
        return [self.chat.decode(row) for row in ids]

    def predictions(self, adapter: Adapter | None) -> list[dict[str, Any]]:
        """One row an item: what was answered and whether it is right."""
        rows = []
        for item, output in zip(self.items, self.outputs(adapter), strict=True):
            given = extract(output)
            rows.append(
                {
                    "id": item["id"],
                    "domain": item["domain"],
                    "output": output,
                    "answer_given": given,
                    "correct": verify(item["answer"], given),
                }
            )
        return rows


def load_evaluator(
    items: list[dict[str, Any]], base: Path, max_new: int, decoder: str = "auto"
) -> Evaluator:
    """Read base and tokenizer, and tokenise the items' prompts.

    Raises:
        EvaluationError, ChatError: one line.
    """
    from safetensors.torch import load_file

    from eval.adapter import base_shapes, weight_files
    from eval.chat import load_chat
    from eval.decode import supports

    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        shapes = base_shapes(base)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{base}: {error}") from error
    weights: dict[str, Tensor] | None = None
    transformers: HfDecoder | None = None
    if decoder == "hf" or not supports(config):
        from eval.hf import HfDecoder

        transformers = HfDecoder(base, _device())
    else:
        weights = {}
        for path in weight_files(base):
            weights |= load_file(path)
    chat = load_chat(base)
    prompts = [e.ids for e in chat.encode([chat.prompt(item["prompt"]) for item in items])]
    return Evaluator(
        items, base, config, chat, shapes, weights, transformers, max_new, prompts
    )


def score(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy over all items and by domain, and the share of outputs that hold a box."""
    domains: dict[str, list[bool]] = {}
    for row in rows:
        domains.setdefault(row["domain"], []).append(bool(row["correct"]))
    return {
        "dev": sum(bool(row["correct"]) for row in rows) / len(rows),
        "n": len(rows),
        "domains": {
            name: {"accuracy": sum(hits) / len(hits), "n": len(hits)}
            for name, hits in sorted(domains.items())
        },
        "boxed": sum(has_box(row["output"]) for row in rows) / len(rows),
    }


def evaluate(
    items_path: Path,
    base: Path,
    out: Path,
    adapters: dict[str, Path | None],
    max_new: int,
    decoder: str = "auto",
) -> dict[str, Any]:
    """Score every adapter (None: the base alone) and write OUT/scores.json; returns its content.

    Raises:
        EvaluationError, ChatError: one line.
    """
    from eval.adapter import AdapterError, base_digest, file_sha256, load_adapter

    items = read_items(items_path)
    evaluator = load_evaluator(items, base, max_new, decoder)
    common = {"items_sha256": file_sha256(items_path), "base_sha256": base_digest(base)}
    out.mkdir(parents=True, exist_ok=True)
    scores: dict[str, Any] = {}
    for name, folder in adapters.items():
        try:
            adapter = None if folder is None else load_adapter(folder, evaluator.shapes)
            sha = adapter.sha256 if adapter else None
            key = {**common, "adapter_sha256": sha, "max_new": max_new, "decoder": decoder}
            rows = _finished(out, name, key, items)
            if rows is None:
                rows = evaluator.predictions(adapter)
                _write(out / f"{name}.predictions.jsonl", _lines(rows))
                _write(_key_path(out, name), _lines([key]))
        except AdapterError as error:
            scores[name] = {"error": str(error)}
            print(f"{name}: refused: {error}", flush=True)
            continue
        scores[name] = score(rows) | {"adapter_sha256": sha}
        print(f"{name}: {scores[name]['dev']:.4f} of {len(rows)}", flush=True)
    record = {
        "schema_version": SCHEMA, **common, "max_new": max_new, "decoder": decoder, "scores": scores
    }
    _write(out / "scores.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    return record


def read_items(path: Path) -> list[dict[str, Any]]:
    """Items as `python -m eval.items` writes them.

    Raises:
        EvaluationError: missing, empty, or a row lacks a field.
    """
    try:
        items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: {error}") from error
    if not items:
        raise EvaluationError(f"{path}: no items")
    for number, item in enumerate(items, 1):
        missing = {"id", "domain", "prompt", "answer"} - set(item)
        if missing:
            raise EvaluationError(f"{path}:{number}: lacks {', '.join(sorted(missing))}")
    return items


def _finished(
    out: Path, name: str, key: dict[str, Any], items: list[dict[str, Any]]
) -> list[dict[str, Any]] | None:
    """Predictions of an earlier process for exactly this adapter, base and item set, if whole."""
    try:
        found = json.loads(_key_path(out, name).read_text(encoding="utf-8"))
        text = (out / f"{name}.predictions.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        same = found == key and [r["id"] for r in rows] == [i["id"] for i in items]
    except (OSError, ValueError, KeyError):
        return None
    return rows if same else None


def _key_path(out: Path, name: str) -> Path:
    """Says what the predictions were made from; written after them."""
    return out / f"{name}.key.json"


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _named_adapter(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or not folder or not NAME.fullmatch(name) or name == BASE_NAME:
        raise argparse.ArgumentTypeError(
            f"{text!r}: NAME=DIR, the name of letters, digits, '.', '_', '-', and not 'base'"
        )
    return name, Path(folder)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.evaluate", description="Score adapters on a fixed set of items."
    )
    parser.add_argument("--items", type=Path, required=True, help="JSON lines of eval.items")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder for predictions and scores")
    parser.add_argument(
        "--adapter", type=_named_adapter, action="append", default=[], metavar="NAME=DIR"
    )
    parser.add_argument("--include-base", action="store_true", help="score the bare base, too")
    parser.add_argument("--max-new", type=int, default=48, help="new tokens an answer may have")
    parser.add_argument("--decoder", choices=("auto", "hf"), default="auto", help="what decodes")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args(argv)
    if not args.adapter and not args.include_base:
        parser.error("nothing to score: give --adapter NAME=DIR or --include-base")
    if len({name for name, _ in args.adapter}) != len(args.adapter):
        parser.error("--adapter: two have the same name")
    adapters: dict[str, Path | None] = {BASE_NAME: None} if args.include_base else {}
    adapters |= dict(args.adapter)
    # Before torch is imported: it reads them once.
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch

    from eval.chat import ChatError

    torch.set_num_threads(args.threads)
    try:
        evaluate(args.items, args.base, args.out, adapters, args.max_new, args.decoder)
    except (EvaluationError, ChatError, OSError) as error:
        print(f"eval.evaluate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
