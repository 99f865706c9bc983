"""Make the tiny base checkpoint that ships in base/tiny.

    python -m base.pretrain --out base/tiny

Minutes on one CPU core; the same arguments on the same machine give the same bytes (other
processors may round differently, so the checkpoint ships as well as this script). The arguments,
the loss and the digests of the files are recorded in OUT/pretraining.json. Only prompts of the
split `train` are used, so items of dev and hidden were never seen.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from eval.adapter import file_sha256
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from base.corpus import Parts, pretraining_texts, tokenizer_texts
from base.muon import Muon
from base.tokenizer import BOS, EOS, PAD, save_tokenizer, train_tokenizer

IGNORE = -100
POOL = 2048  # documents made, sorted by length and batched at a time


def build_model(vocabulary: Tokenizer, args: argparse.Namespace) -> LlamaForCausalLM:
    """A fresh Llama; residual branches start at zero, which helps so small a model."""
    torch.manual_seed(args.seed)
    config = LlamaConfig(
        vocab_size=vocabulary.get_vocab_size(),
        hidden_size=args.hidden,
        intermediate_size=args.ffn,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        head_dim=args.hidden // args.heads,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        bos_token_id=vocabulary.token_to_id(BOS),
        eos_token_id=vocabulary.token_to_id(EOS),
        pad_token_id=vocabulary.token_to_id(PAD),
        initializer_range=0.08,
    )
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def encode(tokenizer: Tokenizer, documents: list[Parts]) -> list[tuple[list[int], list[int]]]:
    """(ids, labels) of each document; its parts are tokenised apart, as at evaluation."""
    texts = [text for parts in documents for text, _ in parts]
    encodings = iter(tokenizer.encode_batch(texts, add_special_tokens=False))
    encoded = []
    for parts in documents:
        ids: list[int] = []
        labels: list[int] = []
        for _, learned in parts:
            piece = next(encodings).ids
            ids += piece
            labels += piece if learned else [IGNORE] * len(piece)
        encoded.append((ids, labels))
    return encoded


def batches(
    documents: list[tuple[list[int], list[int]]], tokens: int, rng: random.Random
) -> list[tuple[Tensor, Tensor]]:
    """Batches of documents of like length, at most `tokens` positions each, in random order."""
    documents = sorted(documents, key=lambda d: len(d[0]) + rng.random())
    groups: list[list[tuple[list[int], list[int]]]] = [[]]
    for document in documents:  # ascending, so the newest is the longest
        if (len(groups[-1]) + 1) * len(document[0]) > tokens:
            groups.append([])
        groups[-1].append(document)
    rng.shuffle(groups)
    return [_pad(group) for group in groups if group]


def _pad(group: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    width = (max(len(ids) for ids, _ in group) + 7) // 8 * 8
    ids = torch.zeros(len(group), width, dtype=torch.long)
    labels = torch.full((len(group), width), IGNORE)
    for row, (tokens, learned) in enumerate(group):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(learned)] = torch.tensor(learned)
    return ids, labels


def loss_of(model: LlamaForCausalLM, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the learned positions."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    learned = targets != IGNORE
    return F.cross_entropy(model.lm_head(hidden[learned]), targets[learned])


def rate(step: int, steps: int) -> float:
    """Factor of the learning rates: short warmup, plateau, linear fall over the last 40 %."""
    return min(1.0, (step + 1) / 100) * min(1.0, max(0.02, (1 - step / steps) / 0.4))


def pretrain(
    model: LlamaForCausalLM, tokenizer: Tokenizer, args: argparse.Namespace
) -> list[float]:
    """Train in place; returns the loss of every step."""
    rng = random.Random(args.seed)
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [
        (Muon(matrices, lr=args.muon_lr), args.muon_lr),
        (torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0), args.lr),
    ]
    losses: list[float] = []
    queue: list[tuple[Tensor, Tensor]] = []
    model.train()
    for step in range(args.steps):
        if not queue:
            documents = pretraining_texts(args.preset, POOL, rng, args.chat, args.traces)
            queue = batches(encode(tokenizer, documents), args.batch_tokens, rng)
        loss = loss_of(model, *queue.pop())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(step, args.steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % 200 == 0:
            recent = sum(losses[-50:]) / 50
            print(f"step {step + 1}/{args.steps} loss {recent:.3f}", flush=True)
    return losses


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write the checkpoint in Hugging Face layout."""
    out.mkdir(parents=True, exist_ok=True)
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    model.save_pretrained(out)
    save_tokenizer(tokenizer, out)
    (out / "model.safetensors").chmod(0o644)  # written for the owner alone; digests cover modes


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; their defaults made base/tiny."""
    parser = argparse.ArgumentParser(
        prog="python -m base.pretrain", description="Pretrain the tiny base checkpoint."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--preset", default="tiny", help="preset of the benchmark's generators")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--batch-tokens", type=int, default=4096, help="positions a step")
    parser.add_argument(
        "--chat", type=float, default=0.3, help="share of question-answer documents"
    )
    parser.add_argument("--traces", type=float, default=0.6, help="share of those with a trace")
    parser.add_argument("--vocabulary", type=int, default=1664, help="most tokens of the BPE")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--ffn", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-3, help="AdamW: embeddings and norms")
    parser.add_argument("--muon-lr", type=float, default=0.02, help="Muon: matrices")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse(argv)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    begin = time.process_time()
    tokenizer = train_tokenizer(tokenizer_texts(args.preset), args.vocabulary)
    model = build_model(tokenizer, args)
    losses = pretrain(model, tokenizer, args)
    save(model, tokenizer, args.out)
    arguments = {key: value for key, value in vars(args).items() if key != "out"}
    record: dict[str, Any] = {
        "arguments": arguments,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": tokenizer.get_vocab_size(),
        "final_loss": round(sum(losses[-50:]) / 50, 4),
        "cpu_seconds": round(time.process_time() - begin, 1),
        "torch": torch.__version__,
        "sha256": {
            name: file_sha256(args.out / name)
            for name in ("model.safetensors", "tokenizer.json", "config.json")
        },
    }
    (args.out / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
