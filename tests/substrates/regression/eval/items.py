"""ITEMS_SEED=1 python -m eval.items SPLIT N OUT"""

import json
import os
import sys
from pathlib import Path

from eval.domains import DEV_MIX, draw

split, n, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
seed = int(os.environ["ITEMS_SEED"])
hidden_mix = json.loads(Path(__file__).with_name("hidden.json").read_text())
mix = hidden_mix if split == "hidden" else DEV_MIX
rows = []
for domain, weight in mix.items():
    count = round(n * weight / sum(mix.values()))
    x, y = draw(domain, count, seed + (split != "dev") * 1000, held_out=True)
    for i, (point, answer) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        rows.append({"id": f"{domain}-{i}", "domain": domain, "point": point, "answer": answer})
out.write_text("".join(json.dumps(row) + "\n" for row in rows))
