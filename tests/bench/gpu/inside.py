"""Work of phase 7, in a sandbox: a product of matrices, a compilation, two steps of training, and a
look at a file that may be hidden. Its last line is JSON.

    python inside.py RECIPE DATA BASE OUT SECRET
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

recipe, data, base, out = (Path(word) for word in sys.argv[1:5])
found: dict[str, object] = {"read": False, "done": False}
with contextlib.suppress(OSError):
    found["read"] = bool(Path(sys.argv[5]).read_text())

import torch  # noqa: E402
import yaml  # noqa: E402
from train.peft_backend import execute  # noqa: E402
from train.run import Run  # noqa: E402

if torch.cuda.is_available():
    import triton
    import triton.language as tl

    @triton.jit
    def double(source, target, n: tl.constexpr):  # type: ignore[no-untyped-def]
        at = tl.arange(0, n)
        tl.store(target + at, 2 * tl.load(source + at))

    one = torch.ones(128, device="cuda")
    two = torch.empty_like(one)
    double[(1,)](one, two, 128)
    assert float(two.sum()) == 256.0
device = "cuda" if torch.cuda.is_available() else "cpu"
ones = torch.ones(64, 64, device=device)
assert float((ones @ ones)[0, 0]) == 64.0
run = Run(yaml.safe_load(recipe.read_text()), data, base, out, seed=7, threads=1)
found["done"] = execute(run)["status"] == "ok"
lines = (out / "metrics.jsonl").read_text().splitlines()
found["losses"] = [round(json.loads(line)["loss"], 5) for line in lines]
print(json.dumps(found))
