"""Run under torchrun by test_megatron_ranks: logits and adapters of a model divided over ranks.

    torchrun … mcore_ranks.py BASE OUT [--tensor N] [--expert N]

Rank 0 writes OUT/logits.pt (base and adapted), OUT/adapter, and OUT/plain: the adapter as it would
be if ranks' rows of in_proj were put one after the other.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from train.checkpoint import write_adapter
from train.mcore import export, layout, lora, model, weights

from tests.substrate.mcore_support import LORA, randomise, tokens


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--expert", type=int, default=1)
    args = parser.parse_args()
    sizes = layout.Layout(tensor=args.tensor, expert=args.expert)
    layout.start(sizes)
    config = model.read_config(args.base)
    network = model.build(config, sizes).eval()
    weights.load(network, config, args.base)
    ids = tokens()
    before = weights.unshard(model.logits(network, ids), 2)
    found = lora.inject(network, config, LORA, seed=3)
    randomise(found, seed=dist.get_rank() if args.tensor > 1 else 0)
    if args.tensor > 1:  # a row-parallel layer's B is the same on all ranks
        for item in found:
            if item.layer.row:
                dist.broadcast(item.layer.lora_b.data, src=0)
    after = weights.unshard(model.logits(network, ids), 2)
    right = export.gather(found, config)
    plain = export.gather([replace(item, rows=None) for item in found], config)
    if dist.get_rank() == 0:
        settings = export.peft_config(LORA, right)
        write_adapter(right, settings, args.out / "adapter")
        write_adapter(plain, settings, args.out / "plain")
        torch.save((before, after), args.out / "logits.pt")
    dist.barrier()
    layout.stop()


if __name__ == "__main__":
    main()
