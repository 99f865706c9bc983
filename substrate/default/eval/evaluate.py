"""Score adapters on a fixed set of items. Trusted: nothing of a fork is imported.

    python -m eval.evaluate --items items.jsonl --base base/tiny --out OUT \\
        --adapter step-000200=OUT/checkpoints/step-000200 [--include-base] [--decoder hf]
    python -m eval.evaluate ... --decoder vllm --command /path/to/vllm-env/bin/python \\
        --max-new 7680 --engine tensor_parallel=1 --engine max_model_len=8192

Writes OUT/<NAME>.predictions.jsonl for each adapter and, last, OUT/scores.json. Each adapter is
validated, added to the base and decoded greedily; the base is loaded once. A refused adapter gets
`{"error": ...}` and the others go on. Run again after a kill, finished predictions are kept; with
vLLM every finished answer is.

Decoders: `auto` is eval.decode where it knows the architecture, else `hf`, which is transformers;
`vllm` is eval.vllm.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.decoders import DECODERS, DTYPES, Evaluator, load_evaluator
from eval.errors import EvaluationError
from eval.files import finished, read_items, save, write
from eval.metric import has_box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eval.vllm import Asked, VllmDecoder

SCHEMA = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
BASE_NAME = "base"


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
    command: str = "",
    engine: Sequence[str] = (),
    dtype: str = "float32",
) -> dict[str, Any]:
    """Score every adapter (None: the base alone) and write OUT/scores.json; returns its content.

    `command` and `engine` are vLLM's: what runs its Python, and NAME=VALUE settings; `dtype` is of
    `hf`.

    Raises:
        EvaluationError, ChatError: one line.
    """
    from eval.adapter import base_digest, file_sha256

    items = read_items(items_path)
    evaluator = load_evaluator(items, base, max_new, decoder, dtype)
    engines = _engines(evaluator, out, command, engine) if decoder == "vllm" else None
    common = {"items_sha256": file_sha256(items_path), "base_sha256": base_digest(base)}
    made: dict[str, Any] = {"max_new": max_new, "decoder": decoder}
    if decoder == "hf" and dtype != DTYPES[0]:
        made["dtype"] = dtype
    if engines is not None:
        made["engine"] = engines.settings.meaning()
    out.mkdir(parents=True, exist_ok=True)
    outcomes, asked = _here(evaluator, engines, adapters, out, {**common, **made})
    if engines is not None and asked:
        outcomes |= _there(evaluator, engines, asked, out)
    record = {
        "schema_version": SCHEMA, **common, **made,
        "scores": {name: outcomes[name] for name in adapters},
    }
    write(out / "scores.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    if engines is not None:
        engines.tidy()
    return record


def _here(
    evaluator: Evaluator, engines: VllmDecoder | None, adapters: dict[str, Path | None],
    out: Path, made: dict[str, Any],
) -> tuple[dict[str, dict[str, Any]], list[Asked]]:
    """Scores of what is refused, finished or answered in this process, and what is left to vLLM."""
    from eval.adapter import AdapterError, check_updates, load_adapter
    from eval.vllm import Asked

    outcomes: dict[str, dict[str, Any]] = {}
    asked = []
    for name, folder in adapters.items():
        try:
            adapter = None if folder is None else load_adapter(folder, evaluator.shapes)
            sha = adapter.sha256 if adapter else None
            origin = {**made, "adapter_sha256": sha}
            rows = finished(out, name, origin, evaluator.items)
            if rows is None and engines is not None:
                if adapter is not None:
                    check_updates(evaluator.base, adapter)
                    engines.check(adapter)
                asked.append(Asked(name, folder, origin))
                continue
            if rows is None:
                rows = evaluator.predictions(adapter)
                save(out, name, origin, rows)
        except AdapterError as error:
            outcomes[name] = _refused(name, str(error))
            continue
        outcomes[name] = _scored(name, rows, sha)
    return outcomes, asked


def _engines(
    evaluator: Evaluator, out: Path, command: str, settings: Sequence[str]
) -> VllmDecoder:
    from eval.vllm import VllmDecoder, parse_settings

    return VllmDecoder(
        command, parse_settings(settings), evaluator.base, evaluator.prompts,
        evaluator.chat.eos_ids, evaluator.max_new, out / "engine",
    )


def _there(
    evaluator: Evaluator, engines: VllmDecoder, asked: Sequence[Asked], out: Path
) -> dict[str, dict[str, Any]]:
    """Scores of what vLLM answers; predictions as of any decoder, with the number of new tokens
    and what ended each answer (stop or length)."""
    from eval.vllm import Refusal

    outcomes = {}
    answered = engines.answers(asked)
    for entry in asked:
        answers = answered[entry.name]
        if isinstance(answers, Refusal):
            outcomes[entry.name] = _refused(entry.name, answers.reason)
            continue
        rows = evaluator.judged([evaluator.chat.decode(answer.ids) for answer in answers])
        for row, answer in zip(rows, answers, strict=True):
            row |= {"tokens": len(answer.ids), "end": answer.end}
        save(out, entry.name, entry.origin, rows)
        outcomes[entry.name] = _scored(entry.name, rows, entry.origin["adapter_sha256"])
    return outcomes


def _refused(name: str, reason: str) -> dict[str, Any]:
    print(f"{name}: refused: {reason}", flush=True)
    return {"error": reason}


def _scored(name: str, rows: list[dict[str, Any]], sha: str | None) -> dict[str, Any]:
    found = score(rows) | {"adapter_sha256": sha}
    print(f"{name}: {found['dev']:.4f} of {len(rows)}", flush=True)
    return found


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
    parser.add_argument("--decoder", choices=DECODERS, default="auto", help="what decodes")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="hf: of the weights")
    parser.add_argument("--command", default="", help="vllm: what runs Python where vLLM is")
    parser.add_argument(
        "--engine", action="append", default=[], metavar="NAME=VALUE",
        help="vllm: one of eval.vllm.Settings",
    )
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
        evaluate(args.items, args.base, args.out, adapters, args.max_new, args.decoder,
                 args.command, args.engine, args.dtype)
    except (EvaluationError, ChatError, OSError) as error:
        print(f"eval.evaluate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
