"""LoRA by NVIDIA NeMo-RL: one run of the recipe's `train` section, stages of RL included.

    srun … --ntasks-per-node=1 --container-image=… python -m train.nemo_rl --recipe recipe.yaml \\
        --data DIR/train.jsonl --base BASE --seed 7 --out OUT

For Nemotron 3 Nano 30B, in NVIDIA's container, one process a *node*: the first starts Ray's head
and runs NVIDIA's scripts, the others join. Writes what `python -m train.sft` writes. Killed at any
instant and run again with the same arguments it goes on from NeMo-RL's last state. Exit status: 0
done, 2 bad arguments or a script that failed, 3 diverged.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.command import Command, Errors

if TYPE_CHECKING:
    from train.run import Run

COMMAND = Command("train.nemo_rl", distributed=True, stages=True)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = _parser().parse_args(argv)
    if not (args.home / "examples" / "run_grpo.py").is_file():
        return COMMAND.fail(f"{args.home}: NeMo-RL is not here: run it in NVIDIA's container "
                            "(nemo-rl:v0.7.0), set by cluster.container")
    return COMMAND.follow(args, lambda run: _train(run, args), _own_errors)


def _parser() -> argparse.ArgumentParser:
    parser = COMMAND.parser()
    parser.add_argument("--home", type=Path, default=Path("/opt/nemo-rl"),
                        help="NeMo-RL's own folder, with examples/")
    parser.add_argument("--family", choices=("auto", "nano"), default="auto",
                        help="whose recipe; auto: by the base's shape")
    parser.add_argument("--gpus", type=int, default=0, help="of each node; 0: those that are seen")
    parser.add_argument("--tensor", type=int, default=0,
                        help="GPUs that share each matrix in training; 0: NVIDIA's own")
    parser.add_argument("--generators", type=int, default=0,
                        help="GPUs that share each matrix in vLLM; 0: NVIDIA's own")
    parser.add_argument("--sequence", type=int, default=4096, help="most tokens a row")
    parser.add_argument("--micro-batch", type=int, default=1, help="rows a forward pass")
    return parser


def _train(run: Run, args: argparse.Namespace) -> dict[str, Any]:
    from train.nemo_rl import cluster
    from train.nemo_rl.run import execute
    from train.nemo_rl.settings import Layout

    cluster.environment()
    gpus = args.gpus or _seen()
    if os.environ.get("RANK", "0") != "0":
        cluster.join(gpus)
        return {"status": "ok", "steps": 0, "final_loss": 0.0}
    layout = Layout(int(os.environ.get("WORLD_SIZE", "1")), gpus, args.tensor, args.generators,
                    args.sequence, args.micro_batch)
    return execute(run, layout, args.family, args.home)


def _seen() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _own_errors() -> Errors:
    from train.nemo_bridge.family import BridgeError
    from train.nemo_rl.tasks import NemoRlError

    return BridgeError, NemoRlError


if __name__ == "__main__":
    sys.exit(main())
