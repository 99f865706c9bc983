"""Answers and tokens per second of the evaluators against plain transformers.generate, in one run.

    python tests/bench/bench_evaluators.py [--items 240] [--repeats 3] [--model tiny|nemotron]
        [--vllm /path/to/vllm-env/bin/python] [--engine dtype=float32] [--engine enforce_eager=true]

Same base, adapter (random, rank 8), prompts and greedy decoding for all; one thread on CPU, a GPU
where torch finds one. Rows: `transformers.generate`, prompts padded to the left in batches of 32,
as its documentation does it (not for recurrent models, which padding would change);
`evaluator=hf`, the same without padding, in groups of equal length; `evaluator=auto`; and
`evaluator=vllm`, if given a command for it. They take turns, so that other work on the machine
meets all; a figure is the median over the turns. vLLM's engine starts once a turn: that time is
told apart. Also told is how many answers equal evaluator=hf's. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SUBSTRATE = Path(__file__).resolve().parents[2] / "substrate" / "default"
sys.path.insert(0, str(SUBSTRATE))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
Ids = list[list[int]]
RANK = 8


def random_adapter(base: Path, folder: Path) -> Path:
    """An adapter on the attention's matrices: it makes decoding cost what a trained one does."""
    import torch
    from eval.adapter import base_shapes
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(1)
    tensors = {}
    for name, shape in base_shapes(base).items():
        module = name.removesuffix(".weight")
        if module.endswith(("q_proj", "k_proj", "v_proj", "o_proj")):
            for half, size in (("A", (RANK, shape[1])), ("B", (shape[0], RANK))):
                tensors[f"base_model.model.{module}.lora_{half}.weight"] = 0.05 * torch.randn(
                    size, generator=draw
                )
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "r": RANK,
                "lora_alpha": 16,
                "bias": "none",
                "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
            }
        )
    )
    return folder


def padded(evaluator: Any, adapter: Any, batch: int = 32) -> Ids:
    """model.generate over batches that are padded to the left, adapter merged."""
    import torch
    from eval.hf import _until

    found, pad, ends = [], evaluator.chat.pad_id, list(evaluator.chat.eos_ids)
    decoder = evaluator.transformers
    with torch.inference_mode(), decoder.merged(adapter):
        for start in range(0, len(evaluator.prompts), batch):
            rows = evaluator.prompts[start : start + batch]
            width = max(map(len, rows))
            ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows])
            mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
            device = decoder.model.device
            out = decoder.model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                do_sample=False,
                max_new_tokens=evaluator.max_new,
                eos_token_id=ends,
                pad_token_id=pad,
            )
            found += [_until(row, ends) for row in out[:, width:].tolist()]
    return found


def vllm_answers(
    evaluator: Any, folder: Path, adapter: Path, command: str, engine: list[str]
) -> tuple[Ids, float, float, str]:
    """Ids, seconds of answering, seconds of starting, version."""
    from eval.shards import rows_of
    from eval.vllm import Asked, VllmDecoder, parse_settings

    decoder = VllmDecoder(
        command,
        parse_settings(engine),
        evaluator.base,
        evaluator.prompts,
        evaluator.chat.eos_ids,
        evaluator.max_new,
        folder,
    )
    found = decoder.answers([Asked("bench", adapter, {"folder": str(folder)})])["bench"]
    if not isinstance(found, list):
        sys.exit(f"error: {found.reason}")
    rows = [row for path in folder.glob("shard-*.jsonl") for row in rows_of(path)]
    answering = max(row["done"]["seconds"] for row in rows if "done" in row)
    starting = max(row["started"]["seconds"] for row in rows if "started" in row)
    return [answer.ids for answer in found], answering, starting, str(decoder.version)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of every turn and the ids of the last, by row of the table."""
    from base.nemotron import make
    from eval.adapter import load_adapter
    from eval.decode import LlamaDecoder, supports
    from eval.decoders import load_evaluator
    from eval.items import items
    from puzzles import load_preset

    base = SUBSTRATE / "base" / "tiny"
    if args.model == "nemotron":
        base = folder / "base"
        make(base)
    drawn = items(load_preset("tiny"), "dev", args.items, 1)
    hf = load_evaluator(drawn, base, args.max_new, "hf")
    place = random_adapter(base, folder / "adapter")
    adapter = load_adapter(place, hf.shapes)
    ways: dict[str, Callable[[], Ids]] = {}
    if supports(hf.config):
        from eval.adapter import merge

        own = load_evaluator(drawn, base, args.max_new)
        ways["transformers.generate"] = lambda: padded(hf, adapter)
        ways["evaluator=auto"] = lambda: LlamaDecoder(
            own.config, merge(own.weights or {}, adapter), str(hf.transformers.model.device)
        ).generate(own.prompts, args.max_new, own.chat.eos_ids)
    ways["evaluator=hf"] = lambda: hf.transformers.generate(
        adapter, hf.prompts, args.max_new, hf.chat.eos_ids, hf.chat.pad_id
    )
    found: dict[str, Any] = {name: {"seconds": [], "ids": []} for name in ways}
    for turn in range(args.repeats):
        for name, way in ways.items():
            begun = time.perf_counter()
            found[name]["ids"] = way()
            found[name]["seconds"].append(time.perf_counter() - begun)
        if args.vllm:
            row = found.setdefault("evaluator=vllm", {"seconds": [], "start": []})
            row["ids"], seconds, start, row["version"] = vllm_answers(
                hf, folder / f"engine-{turn}", place, args.vllm, args.engine
            )
            row["seconds"].append(seconds)
            row["start"].append(start)
        print(f"turn {turn + 1} of {args.repeats}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-new", type=int, default=48)
    parser.add_argument("--model", choices=("tiny", "nemotron"), default="tiny")
    parser.add_argument("--vllm", default="", help="what runs Python where vLLM is")
    parser.add_argument("--engine", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    first = "transformers.generate" if "transformers.generate" in found else "evaluator=hf"
    speeds = {}
    print(f"| | answers/s | tokens/s | ratio to {first} | answers as evaluator=hf |")
    print("|---|---|---|---|---|")
    for name, row in found.items():
        seconds = statistics.median(row["seconds"])
        tokens = sum(map(len, row["ids"])) / seconds
        speeds[name] = tokens
        same = sum(a == b for a, b in zip(row["ids"], found["evaluator=hf"]["ids"], strict=True))
        more = ""
        if "version" in row:
            more = f" {row['version']}, ready after {statistics.median(row['start']):.0f} s"
        print(
            f"| {name}{more} | {args.items / seconds:.0f} | {tokens:.0f} "
            f"| {tokens / speeds[first]:.2f} | {same} of {args.items} |"
        )
    print(json.dumps({"arguments": vars(args), "tokens_per_s": speeds}))


if __name__ == "__main__":
    main()
