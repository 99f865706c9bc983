"""The rows of a task, as lines that `inside.Rows` reads: token ids, and what of them is learned.

SFT and RFT: {ids, learned, weight}; DPO: {prompt, chosen, rejected, weight}; GRPO and answers:
{prompt, row, answer, weight}. All ids; `learned` is where the learned part begins.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eval import files
from eval.chat import Chat

from train.batching import IGNORE, Course, Example, Row
from train.nemo_rl.tasks import NemoRlError
from train.rl.rounds import Sampled, kept, opposed

Line = dict[str, Any]


def write(path: Path, lines: Iterable[Line]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, "".join(json.dumps(line) + "\n" for line in lines))


def taught(example: Example) -> Line:
    """An example of the SFT data, or an answer that is learned as one."""
    learned = next((place for place, label in enumerate(example.labels) if label != IGNORE),
                   len(example.ids))
    return {"ids": example.ids, "learned": learned, "weight": example.weight}


def course(given: Course, steps: int) -> list[Line]:
    """Rows of the first steps of the SFT plan, step after step."""
    return [taught(given.examples[index]) for step in given.plan[:steps] for index in step]


def asked(rows: Sequence[Row], prompts: Sequence[list[int]], count: int,
          rng: random.Random) -> list[Line]:
    """`count` prompts, each once before any comes twice."""
    return [{"prompt": prompts[index], "row": index, "answer": rows[index]["answer"],
             "weight": float(rows[index].get("weight", 1.0))}
            for index in drawn(range(len(rows)), count, rng)]


def sampled(path: Path, asked_lines: Sequence[Line], chat: Chat,
            max_new: int) -> list[list[Sampled]]:
    """What the environment kept of the answers to these prompts, a group a row.

    Raises:
        NemoRlError: nothing is there.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not lines:
        raise NemoRlError(f"{path}: NeMo-RL's environment was given no answers")
    by_row = {line["row"]: line for line in asked_lines}
    end = chat.tokenizer.token_to_id(chat.names["eos_token"])
    end = chat.eos_ids[0] if end is None else end
    groups: dict[int, list[Sampled]] = {}
    texts = chat.encode([line["text"] for line in lines])
    for line, encoded in zip(lines, texts, strict=True):
        ids = encoded.ids + [end] * (len(encoded.ids) < max_new)
        own = by_row[line["row"]]
        groups.setdefault(line["row"], []).append(
            Sampled(own["prompt"], ids, line["right"], line["reward"], own["weight"])
        )
    return list(groups.values())


def preferred(groups: Sequence[Sequence[Sampled]], count: int, rng: random.Random) -> list[Line]:
    """`count` pairs for DPO; none where no group has a right and a wrong answer."""
    pairs = [pair for group in groups if (pair := opposed(group))]
    lines = [{"prompt": best.prompt, "chosen": best.ids, "rejected": worst.ids,
              "weight": best.weight} for best, worst in pairs]
    return drawn(lines, count, rng) if lines else []


def right(groups: Sequence[Sequence[Sampled]], given: Course, steps: int, batch: int,
          rl: dict[str, Any], rng: random.Random) -> list[Line]:
    """RFT: so many batches of what was kept mixed with rows of the SFT data, of which all are where
    nothing was kept."""
    good = [taught(one.example()) for group in groups for one in kept(group, rl["keep"])]
    others = [taught(example) for example in given.examples]
    own = min(batch, round(batch * (1 - rl["mix"]))) if good else 0
    return [line for _ in range(steps)
            for line in drawn(good, own, rng) + drawn(others, batch - own, rng)]


def lengths(lines: Sequence[Line]) -> list[int]:
    """Tokens that each line costs when it is trained on."""
    return [len(line["ids"]) if "ids" in line else
            2 * len(line["prompt"]) + len(line["chosen"]) + len(line["rejected"]) for line in lines]


def drawn(values: Sequence[Any], count: int, rng: random.Random) -> list[Any]:
    """`count` of the values: each once before any comes twice."""
    found: list[Any] = []
    while len(found) < count:
        found += rng.sample(values, min(len(values), count - len(found)))
    return found
