"""Bases, rows, timing and estimates that phases share. Needs the training stack on the path."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from base.nemotron import KINDS, TOKENIZER, make
from torch import Tensor
from train.batching import Batch, Example, collate
from train.run import Run

from tests.bench.gpu.phase import Phase

SUBSTRATE = Path(__file__).resolve().parents[3] / "substrate" / "default"
GIB = 2**30
# Nemotron 3 Nano's widths (aevo/studies/scale/architectures.yaml)
NANO: dict[str, Any] = {
    "vocab_size": 131072,
    "hidden_size": 2688,
    "intermediate_size": 1856,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "mamba_num_heads": 64,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
    "n_groups": 8,
    "chunk_size": 128,
    "n_routed_experts": 128,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712,
    "routed_scaling_factor": 2.5,
}
SMALL: dict[str, Any] = {
    "vocab_size": 1536, "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2,
    "chunk_size": 64, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 64,
    "routed_scaling_factor": 2.5,
}  # fmt: skip
WIDE, SHORT = "MEM*EMEM", "ME"


def tiny(here: Phase) -> Path:
    """model=tiny_nemotron_h; made once."""
    folder = here.shared / "tiny_nemotron_h"
    if not folder.exists():
        make(folder)
    return folder


def wide(here: Phase, pattern: str = WIDE) -> Path:
    """Random weights in bf16 at a large model's true widths and few layers; made once."""
    from transformers import NemotronHConfig, NemotronHForCausalLM

    folder = here.shared / f"wide-{len(pattern)}"
    if folder.exists():
        return folder
    config = NemotronHConfig(
        layers_block_type=[KINDS[letter] for letter in pattern], max_position_embeddings=8192,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, **(SMALL if here.dry else NANO),
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(here.device):
            model = NemotronHForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="4GB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((TOKENIZER / name).read_bytes())
    del model
    free()
    return folder


def free() -> None:
    """Gives memory of the GPU back."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def recipe(steps: int, rows: int, checkpoints: int = 1) -> dict[str, Any]:
    """The default recipe at such a size."""
    found: dict[str, Any] = yaml.safe_load((SUBSTRATE / "recipe.yaml").read_text())
    found["train"] |= {"steps": steps, "batch_size": rows, "checkpoints": checkpoints}
    return found


def rows(length: int, count: int, vocabulary: int) -> Batch:
    """Rows of random tokens, all learned, none padded."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, vocabulary, (count, length), generator=generator).tolist()
    return collate([Example(row, row, 1.0) for row in ids], 0)


def tokens(device: torch.device, count: int = 3, length: int = 70) -> Tensor:
    """Random ids, longer than a chunk of the tiny model's scan."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 1505, (count, length), generator=generator).to(device)


def data(here: Phase, settings: dict[str, Any]) -> tuple[Path, Path]:
    """train.jsonl of the generator and recipe.yaml, in this phase's folder."""
    from data.build import build
    from puzzles import load_preset

    lines, _ = build(settings, load_preset("tiny"), 7)
    train, written = here.folder / "train.jsonl", here.folder / "recipe.yaml"
    train.write_text("".join(json.dumps(line) + "\n" for line in lines))
    written.write_text(yaml.safe_dump(settings))
    return train, written


def a_run(here: Phase, base: Path, settings: dict[str, Any], out: str = "out") -> Run:
    """Arguments of a run on the generator's rows."""
    train, _ = data(here, settings)
    return Run(settings, train, base, here.folder / out, seed=7, threads=1)


def losses(out: Path) -> list[float]:
    """Of every step of a run."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@contextmanager
def alone() -> Iterator[torch.device]:
    """megatron's process groups with this process as the only rank."""
    from train.mcore import layout

    yield layout.start(layout.Layout())
    layout.stop()


def step(backend: Any, batch: Batch) -> float:
    """One whole step of a train.loop.Backend that holds its optimiser; the loss."""
    loss = backend.forward_backward(batch, 0)
    backend.clip(1.0)
    backend.optimizer.step()
    backend.optimizer.zero_grad(set_to_none=True)
    return float(loss)


def seconds(here: Phase, work: Callable[[], Any], times: int = 3) -> float:
    """The median time of `work`, after one that does not count."""
    found = []
    for _ in range(times + 1):
        wait(here)
        begun = time.perf_counter()
        work()
        wait(here)
        found.append(time.perf_counter() - begun)
    return statistics.median(found[1:])


def wait(here: Phase) -> None:
    """Until the GPU is done."""
    if here.device.type == "cuda":
        torch.cuda.synchronize()


def peak(here: Phase, work: Callable[[], Any]) -> float | None:
    """GiB of the GPU that `work` takes at most; None on CPU."""
    if here.device.type != "cuda":
        work()
        return None
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_reserved() / GIB


def relative(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what is expected."""
    found, expected = found.float(), expected.float().to(found.device)
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def estimate(base: Path, settings: dict[str, Any], card: str, **division: Any) -> dict[str, Any]:
    """What `aevo.scale` says of a step: columns of a figure."""
    from aevo.studies.scale import hf_config, memory, steptime
    from aevo.studies.scale.adapter import adapter_of
    from aevo.studies.scale.assumptions import Assumptions
    from aevo.studies.scale.hardware import GPUS
    from aevo.studies.scale.parallel import Division

    model, assumed = hf_config.read(base), Assumptions()
    gpu = next((gpu for name, gpu in GPUS.items() if name in card.lower()), GPUS["h200"])
    layout = Division(
        nodes=1, gpus=1, ranks=1, tensor=1, pipeline=1, expert=1,
        adapter=adapter_of(settings["train"]["lora"], model), **division,
    )  # fmt: skip
    step = steptime.of(model, layout, gpu, assumed)
    return {
        "flops": step.flops, "peak": gpu.peak(layout.number_bytes),
        "rate_estimated": step.rate, "mfu_estimated": step.mfu,
        "peak_gib_estimated": memory.of(model, layout, assumed).total / GIB,
        "layer_ms_estimated": 1000 * step.seconds / layout.microbatches / len(model.pattern),
    }  # fmt: skip


def measured(
    what: str, told: dict[str, Any], took: float, count: int, layers: int, passes: int, **more: Any
) -> dict[str, Any]:
    """A figure: a step of `count` tokens in `took` seconds beside what was told of it."""
    said = {name: value for name, value in told.items() if name.endswith("_estimated")}
    return {
        "what": what, "rate": count / took, "mfu": told["flops"] / took / told["peak"],
        "layer_ms": 1000 * took / passes / layers, **said, **more,
    }  # fmt: skip


def card(here: Phase) -> str:
    """Its name."""
    return torch.cuda.get_device_name() if here.device.type == "cuda" else "cpu"
