"""The ranks of test_megatron_ranks: several layouts of one group of ranks, in turn.

    aevo/jobs/ranks.py … mcore_ranks.py PLAN.json

PLAN is a list of objects: `base`, `out`, `layout` (fields of train.mcore.layout.Layout), and for a
training run `recipe` and `data`, else `lora`. Without `recipe` rank 0 writes OUT/logits.pt (base
and adapted), OUT/adapter, and OUT/plain: the adapter as it would be if ranks' rows of in_proj were
put one after the other.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from train.checkpoint import write_adapter
from train.mcore import export, layout, lora, model, weights
from train.peft_format import peft_config

from tests.stack.mcore_support import randomise, run_here, tokens


def answer(base: Path, out: Path, sizes: layout.Layout, settings: dict[str, Any]) -> None:
    config = model.read_config(base)
    network = model.build(config, sizes).eval()
    weights.load(network, config, base)
    ids = tokens()
    before = weights.unshard(model.logits(network, ids), 2)
    found = lora.inject(network, config, settings, seed=3)
    randomise(
        found,
        seed=parallel_state.get_tensor_model_parallel_rank()
        + 10 * parallel_state.get_expert_model_parallel_rank(),
    )
    for item in found:  # a row-parallel layer's B is the same on all tensor-parallel ranks, and all
        # that is not on experts the same on ranks that share only these
        if item.layer.row or (not item.routed and sizes.tensor == 1):
            dist.broadcast(item.layer.lora_b.data, src=0)
    after = weights.unshard(model.logits(network, ids), 2)
    right = export.gather(found, config)
    plain = export.gather([replace(item, rows=None) for item in found], config)
    if dist.get_rank() == 0:
        config = peft_config(settings, right)
        write_adapter(right, config, out / "adapter")
        write_adapter(plain, config, out / "plain")
        torch.save((before, after), out / "logits.pt")


def main() -> None:
    plan: list[dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text())
    for job in plan:
        sizes = layout.Layout(**job["layout"])
        layout.start(sizes)
        base, out = Path(job["base"]), Path(job["out"])
        out.mkdir(parents=True, exist_ok=True)
        if "recipe" in job:
            run_here(job["recipe"], Path(job["data"]), base, out, sizes)
        else:
            answer(base, out, sizes, job["lora"])
        dist.barrier()
        parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
