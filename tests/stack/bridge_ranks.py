"""The ranks of test_bridge_run: several runs of train.bridge by one group of ranks.

    aevo/jobs/ranks.py … bridge_ranks.py PLAN.json

PLAN is a list of argument vectors. The ranks end with the first exit status that is not 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch.distributed as dist
from train import bridge

from tests.stack.bridge_support import stand_in

if __name__ == "__main__":
    stand_in()
    dist.init_process_group("gloo")  # once: Megatron-Bridge uses what is there
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        status = bridge.main(arguments)
        if status:
            sys.exit(status)
        dist.barrier()
    dist.destroy_process_group()
