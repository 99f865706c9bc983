"""python -m data.build SEED OUT (in a fork: reads its recipe.yaml)"""

import json
import sys
from pathlib import Path

import numpy as np
import yaml
from eval.domains import draw

LABEL_FLIPS = True
recipe = yaml.safe_load(Path("recipe.yaml").read_text())["data"]
seed, out = int(sys.argv[1]), Path(sys.argv[2])
mixture = recipe["mixture"]
if not all(weight >= 0 for weight in mixture.values()):
    sys.exit(f"data.mixture={mixture}: weights must be >= 0")
generator = np.random.default_rng(seed)
rows = []
for domain, weight in mixture.items():
    x, y = draw(domain, round(recipe["examples"] * weight / sum(mixture.values())), seed, False)
    flips = generator.random(len(y)) < (recipe["noise"] if LABEL_FLIPS else 0)
    for point, answer in zip(x.tolist(), np.where(flips, 1 - y, y).tolist(), strict=True):
        rows.append({"domain": domain, "point": point, "answer": answer})
if recipe["dedupe"]:
    rows = list({json.dumps(row): row for row in rows}.values())
out.mkdir(parents=True, exist_ok=True)
(out / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
