"""python -m eval.score --items FILE --out DIR [--include-base] [--adapter NAME=DIR ...]"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from eval.domains import DOMAINS, features

parser = argparse.ArgumentParser()
parser.add_argument("--items", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--include-base", action="store_true")
parser.add_argument("--adapter", action="append", default=[])
given = parser.parse_args()
items = [json.loads(line) for line in given.items.read_text().splitlines()]
given.out.mkdir(parents=True, exist_ok=True)


def score(name: str, weights: np.ndarray | None, digest: str | None) -> dict[str, object]:
    lines = []
    hits: dict[str, list[bool]] = {}
    for item in items:
        guess = 0
        if weights is not None:
            block = features(item["domain"], np.array([item["point"]]), len(weights) // 3)
            guess = int((block @ weights)[0] > 0)
        correct = guess == item["answer"]
        hits.setdefault(item["domain"], []).append(correct)
        lines.append({"id": item["id"], "domain": item["domain"], "output": str(guess),
                      "answer_given": str(guess), "correct": correct})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (given.out / f"{name}.predictions.jsonl").write_text(text)
    return {"dev": sum(sum(found) for found in hits.values()) / len(items), "n": len(items),
            "boxed": 1.0, "adapter_sha256": digest,
            "domains": {d: {"accuracy": sum(hits[d]) / len(hits[d]), "n": len(hits[d])}
                        for d in DOMAINS if d in hits}}


scores = {"base": score("base", None, None)} if given.include_base else {}
for pair in given.adapter:
    name, folder = pair.split("=", 1)
    path = Path(folder) / "adapter_model.safetensors"
    weights = load_file(path)["weights"]
    if np.isfinite(weights).all():
        scores[name] = score(name, weights, hashlib.sha256(path.read_bytes()).hexdigest())
    else:
        scores[name] = {"error": "weights are not finite"}
record = {"schema_version": 1, "base_sha256": "0", "scores": scores,
          "items_sha256": hashlib.sha256(given.items.read_bytes()).hexdigest()}
temporary = given.out / ".scores.json"
temporary.write_text(json.dumps(record))
temporary.replace(given.out / "scores.json")
