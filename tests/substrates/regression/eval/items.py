"""python -m eval.items SPLIT N SEED OUT"""

import json
import sys
from pathlib import Path

from eval.domains import DEV_MIX, HIDDEN_MIX, draw

split, n, seed, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
mix = HIDDEN_MIX if split == "hidden" else DEV_MIX
rows = []
for domain, weight in mix.items():
    count = round(n * weight / sum(mix.values()))
    x, y = draw(domain, count, seed + (split != "dev") * 1000, held_out=True)
    for i, (point, answer) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        rows.append({"id": f"{domain}-{i}", "domain": domain, "point": point, "answer": answer})
out.write_text("".join(json.dumps(row) + "\n" for row in rows))
