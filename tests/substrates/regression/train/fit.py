"""python -m train.fit DATA SEED OUT (in a fork). Resumes from its last checkpoint."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from eval.domains import features
from safetensors.numpy import load_file, save_file

data, seed, out = Path(sys.argv[1], "train.jsonl"), int(sys.argv[2]), Path(sys.argv[3])
recipe = yaml.safe_load(Path("recipe.yaml").read_text())["train"]
rows = [json.loads(line) for line in data.read_text().splitlines()]
x = np.concatenate([features(r["domain"], np.array([r["point"]]), recipe["width"]) for r in rows])
y = np.array([row["answer"] for row in rows])
out.mkdir(parents=True, exist_ok=True)
steps, every = recipe["steps"], recipe["steps"] // recipe["checkpoints"]
saved = out.glob("checkpoints/step-*/adapter_model.safetensors")
done = sorted(int(path.parent.name[5:]) for path in saved)
start = done[-1] if done else 0
resumed = json.loads((out / "resumed.json").read_text()) if (out / "resumed.json").exists() else []
if start:
    resumed.append(start)
    (out / "resumed.json").write_text(json.dumps(resumed))
weights = np.asarray(np.random.default_rng(seed).normal(size=x.shape[1], scale=0.1))
if start:
    weights = load_file(out / f"checkpoints/step-{start:04d}/adapter_model.safetensors")["weights"]
loss, status, reached = 0.0, "ok", start
for step in range(start + 1, steps + 1):
    batch = np.random.default_rng([seed, step]).integers(len(y), size=32)
    p = 1 / (1 + np.exp(-np.clip(x[batch] @ weights, -50, 50)))
    loss = float(-np.log(np.where(y[batch] == 1, p, 1 - p) + 1e-9).mean())
    gradient = x[batch].T @ (p - y[batch]) / 32 + recipe["weight_decay"] * weights
    norm = float(np.linalg.norm(gradient))
    if recipe["clip"] and norm > recipe["clip"]:
        gradient *= recipe["clip"] / norm
    decay = 1 - (step - 1) / steps if recipe["schedule"] == "linear" else 1.0
    weights -= recipe["learning_rate"] * decay * gradient
    time.sleep(recipe["step_seconds"])
    if np.abs(weights).max() > 1e3:
        status = "diverged"
        break
    reached = step
    line = {"step": step, "loss": loss, "lr": recipe["learning_rate"] * decay, "pid": os.getpid()}
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    if step % every == 0:
        folder = out / f"checkpoints/step-{step:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weights": weights}, folder / ".partial")
        (folder / ".partial").replace(folder / "adapter_model.safetensors")
names = sorted(path.name for path in out.glob("checkpoints/step-*"))
record = {"schema_version": 1, "status": status, "steps": reached, "final_loss": loss, "seed": seed,
          "checkpoints": [{"step": int(n[5:]), "path": f"checkpoints/{n}"} for n in names],
          "base_sha256": "0", "data_sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
          "resumed_from": resumed}
(out / ".result.json").write_text(json.dumps(record))
(out / ".result.json").replace(out / "result.json")
sys.exit(3 if status == "diverged" else 0)
