"""Trusted checks of a run: overlap of data and items, outputs, adapters, attempts, scores."""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from aevo.errors import AevoError
from aevo.evaluate import IntegrityError
from aevo.evaluate.adapters import Limits, check_adapter, copy_adapter, take_adapter
from aevo.evaluate.outputs import OutputLimits, check_output
from aevo.evaluate.overlap import overlap
from aevo.evaluate.proof import prove_run
from aevo.evaluate.scores import check_scores
from aevo.files.documents import append_line, write_json
from aevo.files.paths import RunLayout
from aevo.jobs.folder import JobFolder
from aevo.records.job import JobEnd, JobSpec, LedgerLine, Step
from aevo.records.scores import Score, Scores
from aevo.substrate.frozen import open_substrate
from tests.conftest import REGRESSION, REPO

DEFAULT = REPO / "substrate" / "default"
BASE = DEFAULT / "base" / "tiny"


def module(root: Path, *argv: str, cwd: Path | None = None, **variables: str) -> None:
    """Runs a module of a substrate."""
    subprocess.run(
        [sys.executable, "-m", *argv],
        cwd=cwd or root,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", **variables},
    )


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Dev and hidden items of both presets."""
    root = tmp_path_factory.mktemp("items")
    found: dict[str, list[Path]] = {}
    for preset in ("tiny", "challenge"):
        for split, n in (("dev", "720"), ("hidden", "1200")):
            path = root / f"{preset}-{split}.jsonl"
            module(
                DEFAULT,
                "eval.items",
                "--preset",
                preset,
                "--split",
                split,
                "--n",
                n,
                "--out",
                str(path),
                ITEMS_SEED="3",
            )
            found.setdefault(preset, []).append(path)
    return found


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.long(4)
@pytest.mark.parametrize("preset", ["tiny", "challenge"])
def test_honest_data_is_clean_and_fast(
    preset: str, items: dict[str, list[Path]], tmp_path: Path
) -> None:
    recipe = (DEFAULT / "recipe.yaml").read_text().replace("resolve: true", "resolve: false")
    augmented = (
        recipe.replace("examples: 0.0", "examples: 1.0")
        .replace("example: 0.0", "example: 1.0")
        .replace("numbers: 0.0", "numbers: 1.0")
        .replace("style: none", "style: full")
    )
    for seed, text in ((1, recipe), (2, augmented)):
        (tmp_path / "recipe.yaml").write_text(text)
        out = tmp_path / str(seed)
        module(
            DEFAULT,
            "data.build",
            "--recipe",
            str(tmp_path / "recipe.yaml"),
            "--preset",
            preset,
            "--seed",
            str(seed),
            "--out",
            str(out),
        )
        begun = time.process_time()
        report = overlap(out / "train.jsonl", items[preset])
        assert report.clean, report.hits
        assert report.rows > 3000 and report.items == 1920
        assert report.data_sha256 == json.loads((out / "data.json").read_text())["sha256"]
        assert time.process_time() - begun < 6  # measured: 1 to 2 s on one core


def test_regression_data_is_clean_and_its_copies_are_not(tmp_path: Path) -> None:
    for split in ("dev", "hidden"):
        module(
            REGRESSION, "eval.items", split, "600", str(tmp_path / f"{split}.jsonl"), ITEMS_SEED="1"
        )
    module(REGRESSION, "data.build", "5", str(tmp_path))
    sets = [tmp_path / "dev.jsonl", tmp_path / "hidden.jsonl"]
    assert overlap(tmp_path / "train.jsonl", sets).clean
    dev = rows_of(sets[0])
    copied = write_rows(
        tmp_path / "bad.jsonl",
        [{"domain": row["domain"], "point": row["point"], "answer": row["answer"]} for row in dev],
    )
    assert overlap(copied, sets).contaminated == len(dev)


def shout(prompt: str) -> str:
    return prompt.upper().replace(" ", "  \t").replace("\n", "\r\n\n")


def zero_width(prompt: str) -> str:
    return prompt.replace("e", "e\u200b").replace("0", "０")


WHOLE: dict[str, Callable[[str], Any]] = {
    "exact": lambda p: {"prompt": p, "completion": "no"},
    "another field": lambda p: {"x": {"y": [1, None, {"z": p}]}},
    "case and spacing": lambda p: {"prompt": shout(p)},
    "unicode": lambda p: {"prompt": zero_width(p)},
    "answer appended": lambda p: {"text": p + " The answer is \\boxed{42}"},
    "embedded": lambda p: {"text": "word " * 3000 + p + " and so on" * 2000},
    "in the completion": lambda p: {"prompt": "hello", "completion": f"I recall: {p} It is so."},
    "chat": lambda p: {"messages": [{"role": "user", "content": p}]},
    "name twice": lambda p: f'{{"prompt": {json.dumps(p)}, "prompt": "innocent"}}',
    "text": lambda p: p.replace("\n", " "),
    "escaped in broken JSON": lambda p: "{broken " + json.dumps(p),
    "field's name": lambda p: {p: 1},
}


@pytest.mark.long(5)
@pytest.mark.parametrize("preset", ["tiny", "challenge"])
@pytest.mark.parametrize("way", WHOLE)
def test_copies_are_found(
    way: str, preset: str, items: dict[str, list[Path]], tmp_path: Path
) -> None:
    dev = rows_of(items[preset][0])[::9]
    made = [WHOLE[way](row["prompt"]) for row in dev]
    data = tmp_path / "train.jsonl"
    data.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in made)
    )
    report = overlap(data, items[preset])
    assert set(report.found) == {row["id"] for row in dev}
    assert dev[0]["prompt"] not in report.model_dump_json()
    assert json.dumps(dev[0]["prompt"])[1:-1] not in report.model_dump_json()


def test_near_copies_are_found(items: dict[str, list[Path]], tmp_path: Path) -> None:
    rng, dev = random.Random(1), rows_of(items["challenge"][0])
    rows = []
    for row in dev:
        lines = row["prompt"].split("\n")
        examples = [i for i, line in enumerate(lines) if any(c in line for c in "=>")][1:]
        lines[rng.choice(examples or [1])] = "something else -> altogether"
        rows.append({"prompt": "\n".join(lines)})
    report = overlap(write_rows(tmp_path / "t.jsonl", rows), items["challenge"])
    found = {row["domain"]: [0, 0] for row in dev}
    for row in dev:
        found[row["domain"]][0] += row["id"] in report.found
        found[row["domain"]][1] += 1
    shares = {domain: hits / all_ for domain, (hits, all_) in found.items()}
    assert all(shares[name] > 0.8 for name in ("bits", "gravity", "cipher")), shares
    assert report.near / len(dev) > 0.5, shares  # numerals: too little text of their own


@pytest.mark.long(3)
def test_hostile_data_is_bounded(items: dict[str, list[Path]], tmp_path: Path) -> None:
    prompt = rows_of(items["challenge"][0])[5]["prompt"].encode()
    deep = b"[" * 100_000
    path = tmp_path / "hostile.jsonl"
    flat = prompt.replace(b"\n", b"\\n")
    path.write_bytes(
        b"\xff\xfe\x00 bad\n"
        + deep
        + b"\n"
        + b'{"n": 1'
        + b"0" * 5000
        + b"}\n"
        + b"z" * 9_000_000
        + b" "
        + flat
        + b" "
        + b"ab " * 2_000_000
    )
    report = overlap(path, items["challenge"])
    assert report.contaminated == 1 and report.rows == 4 and report.complete
    short = overlap(path, items["challenge"], max_bytes=1_000_000)
    assert not short.complete and not short.clean
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "missing"):
        with pytest.raises(IntegrityError):
            overlap(tmp_path / name, items["challenge"])


def run_output(folder: Path, **changes: Any) -> Path:
    """A run's output folder with one adapter."""
    checkpoint = folder / "checkpoints" / "step-1"
    checkpoint.mkdir(parents=True)
    save_file({"weights": np.ones(9)}, checkpoint / "adapter_model.safetensors")
    result = {
        "status": "ok",
        "steps": 1,
        "seed": 7,
        "base_sha256": "0",
        "data_sha256": "0",
        "final_loss": 0.5,
        "checkpoints": [{"step": 1, "path": "checkpoints/step-1"}],
    }
    (folder / "result.json").write_text(json.dumps(result | changes))
    return folder


def test_a_good_output_passes(tmp_path: Path) -> None:
    result = check_output(run_output(tmp_path / "out", final_loss=float("nan")))
    assert result.final_loss is None and result.checkpoints[0].step == 1


@pytest.mark.parametrize(
    "path",
    [
        "/etc",
        "../other",
        "checkpoints/../../x",
        "missing",
        "result.json",
        "",
        "checkpoints/base",
        "a\nb",
        "checkpoints/\x1b[2J",
    ],
)
def test_bad_checkpoint_paths_are_refused(path: str, tmp_path: Path) -> None:
    out = run_output(tmp_path / "out", checkpoints=[{"step": 1, "path": path}])
    (out / "checkpoints" / "base").mkdir()
    with pytest.raises(IntegrityError):
        check_output(out)


def plant(out: Path, what: str) -> None:
    secret = out.parent / "secret"
    secret.write_text("secret")
    match what:
        case "symlink":
            (out / "log").symlink_to(secret)
        case "folder link":
            shutil.move(out / "checkpoints", out.parent / "elsewhere")
            (out / "checkpoints").symlink_to(out.parent / "elsewhere")
        case "hard link":
            (out / "log").hardlink_to(secret)
        case "pipe":
            os.mkfifo(out / "log")
        case "result link":
            (out / "result.json").rename(out.parent / "r.json")
            (out / "result.json").symlink_to(out.parent / "r.json")
        case "odd name":
            (out / "a\nb").touch()
        case "many files":
            for number in range(30):
                (out / str(number)).touch()
        case "large":
            with (out / "large").open("wb") as file:
                file.truncate(1 << 21)
        case "huge result":
            (out / "result.json").write_text(" " * (1 << 20) + "{}")
        case "deep result":
            (out / "result.json").write_text("[" * 100_000)
        case "no result":
            (out / "result.json").unlink()
        case "same name":
            (out / "b" / "step-1").mkdir(parents=True)
            text = json.loads((out / "result.json").read_text())
            text["checkpoints"].append({"step": 2, "path": "b/step-1"})
            (out / "result.json").write_text(json.dumps(text))


@pytest.mark.parametrize(
    "what",
    [
        "symlink",
        "folder link",
        "hard link",
        "pipe",
        "result link",
        "odd name",
        "many files",
        "large",
        "huge result",
        "deep result",
        "no result",
        "same name",
    ],
)
def test_what_a_run_may_not_leave(what: str, tmp_path: Path) -> None:
    out = run_output(tmp_path / "out")
    plant(out, what)
    with pytest.raises(IntegrityError) as caught:
        check_output(out, OutputLimits(files=20, bytes=1 << 20))
    assert "\n" not in str(caught.value) and caught.value.code == 9


CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "bias": "none",
    "target_modules": ["q_proj"],
}
MODULE = "model.layers.0.self_attn.q_proj"


def adapter(folder: Path, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
    """A LoRA of the tiny base's first query projection."""
    from aevo.evaluate.lora import base_shapes

    rows, columns = base_shapes(BASE)[MODULE + ".weight"]
    rng = np.random.default_rng(0)
    halves = {"lora_A": rng.normal(size=(4, columns)), "lora_B": rng.normal(size=(rows, 4))}
    found = {
        f"base_model.model.{MODULE}.{half}.weight": value.astype(np.float32)
        for half, value in halves.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(found | (tensors or {}), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return folder


def test_a_good_adapter_is_taken_and_what_was_judged_is_kept(tmp_path: Path) -> None:
    source = adapter(tmp_path / "out" / "a")
    (source / "README.md").write_text("made by a worker")
    report = take_adapter(source, tmp_path / "kept" / "a", BASE, root=tmp_path / "out")
    assert report.kind == "lora" and report.rank == 4 and report.tensors == 2
    kept = tmp_path / "kept" / "a"
    assert sorted(path.name for path in kept.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    (source / "adapter_model.safetensors").write_bytes(b"changed afterwards")
    again = take_adapter(source, kept, BASE)
    assert again.weights_sha256 == report.weights_sha256
    assert sorted(path.name for path in kept.parent.iterdir()) == ["a"]


def test_checks_need_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, aevo.evaluate.adapters, aevo.evaluate.overlap, aevo.evaluate.proof; "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert shown.stdout.strip() == "[]", shown.stderr


def bfloat16(path: Path, value: int) -> None:
    """Replaces the weights by a file whose bf16 tensor holds `value` as its bits."""
    header = json.dumps({"weights": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}})
    path.write_bytes(
        struct.pack("<Q", len(header)) + header.encode() + struct.pack("<HH", 0x3F80, value)
    )


@pytest.mark.parametrize(
    ("bits", "good"), [(0x3F80, True), (0x7F80, False), (0x7FC0, False), (0x7F00, False)]
)
def test_bfloat16_values_are_judged(bits: int, good: bool, tmp_path: Path) -> None:
    bfloat16(tmp_path / "adapter_model.safetensors", bits)
    if good:
        report = check_adapter(tmp_path, BASE)
        assert report.kind == "tensors" and report.largest == 1.0
    else:
        with pytest.raises(IntegrityError):
            check_adapter(tmp_path, BASE)


A = f"base_model.model.{MODULE}.lora_A.weight"
WRONG: dict[str, dict[str, Any]] = {
    "other file": {"extra": "model.py"},
    "pickle": {"extra": "adapter_model.bin"},
    "second weights": {"extra": "model.safetensors"},
    "hidden file": {"extra": ".pth"},
    "not finite": {"tensors": {A: np.full((4, 64), np.nan, np.float32)}},
    "infinite": {"tensors": {A: np.full((4, 64), np.inf, np.float32)}},
    "huge": {"tensors": {A: np.full((4, 64), 1e6, np.float32)}},
    "shape": {"tensors": {A: np.ones((5, 64), np.float32)}},
    "type": {"tensors": {A: np.ones((4, 64), np.int32)}},
    "double": {"tensors": {A: np.ones((4, 64), np.float64)}},
    "full weights": {"tensors": {f"{MODULE}.weight": np.ones((64, 64), np.float32)}},
    "unknown module": {
        "tensors": {"base_model.model.other.lora_A.weight": np.ones((4, 64), np.float32)}
    },
    "half a pair": {
        "tensors": {
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": np.ones(
                (4, 64), np.float32
            )
        }
    },
    "rank": {"config": {"r": 64}},
    "rank of another type": {"config": {"r": True}},
    "scale": {"config": {"lora_alpha": 1e8}},
    "endless scale": {"config": {"lora_alpha": 10**400}},
    "modules_to_save": {"config": {"modules_to_save": ["lm_head"]}},
    "remote code": {"config": {"auto_map": {"AutoModel": "evil.Model"}}},
    "auto mapping": {"config": {"auto_mapping": {"parent_library": "evil"}}},
    "dora": {"config": {"use_dora": True}},
    "kind": {"config": {"peft_type": "LOHA"}},
    "other base": {"config": {"base_sha256": "f" * 64}},
    "targets": {"config": {"target_modules": ["k_proj"]}},
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_adapters_are_refused(case: str, tmp_path: Path) -> None:
    wrong = WRONG[case]
    folder = adapter(tmp_path / "a", wrong.get("tensors"), **wrong.get("config", {}))
    if "extra" in wrong:
        (folder / wrong["extra"]).write_text("x")
    for check in (
        lambda: check_adapter(folder, BASE, "0" * 64),
        lambda: take_adapter(folder, tmp_path / "kept", BASE, "0" * 64),
    ):
        with pytest.raises(IntegrityError):
            check()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"\x80\x04.", b"\xff" * 16, struct.pack("<Q", 2) + b"{}"]
)
def test_files_that_are_no_safetensors(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(data)
    with pytest.raises(IntegrityError):
        check_adapter(tmp_path, BASE)


def test_links_to_adapters_are_not_followed(tmp_path: Path) -> None:
    real = adapter(tmp_path / "real")
    linked = tmp_path / "out" / "linked"
    linked.mkdir(parents=True)
    (linked / "adapter_model.safetensors").symlink_to(real / "adapter_model.safetensors")
    (tmp_path / "out" / "way").symlink_to(tmp_path / "real")
    with pytest.raises(IntegrityError):
        check_adapter(linked, BASE)
    for source in (linked, tmp_path / "out" / "way"):
        with pytest.raises(IntegrityError):
            copy_adapter(source, tmp_path / "copy", root=tmp_path / "out")
    with pytest.raises(IntegrityError):
        copy_adapter(real, tmp_path / "small", Limits(bytes=10))


def proven_run(root: Path) -> tuple[RunLayout, JobSpec]:
    """A run on the regression substrate with its job's records, as after a second attempt."""
    run = RunLayout(root / "c01", 1)
    substrate = open_substrate(REGRESSION)
    substrate.copy(REGRESSION, run.fork)
    run_output(run.output)
    run.data.mkdir()
    (run.data / "train.jsonl").write_text("{}\n")
    spec = JobSpec(
        name="c01-train-1",
        kind="train",
        campaign="x",
        folder=str(root / "job"),
        product=str(run.result),
        steps=[Step(argv=["train", "7"], cwd="/")],
    )
    job = JobFolder(root / "job")
    write_json(job.spec, spec)
    for attempt, code in ((1, 1), (2, 0)):
        append_line(
            job.ledger,
            LedgerLine(event="intent", name=spec.name, attempt=attempt, time=100.0 * attempt),
        )
        append_line(
            job.ledger,
            LedgerLine(event="started", name=spec.name, attempt=attempt, time=100.0 * attempt + 5),
        )
        write_json(
            job.end(attempt),
            JobEnd(name=spec.name, attempt=attempt, exit_code=code, seconds=9.0, host="h"),
        )
    return run, spec


def test_a_run_is_bound_to_its_attempt(tmp_path: Path) -> None:
    run, spec = proven_run(tmp_path)
    substrate = open_substrate(REGRESSION)
    result = check_output(run.output)
    report = check_adapter(run.output / "checkpoints/step-1", REGRESSION / "base")
    proof = prove_run(run, spec, 7, substrate, result, {"step-1": report})
    assert (proof.attempt, proof.started, proof.slurm_job_id) == (2, 205.0, None)
    assert proof.adapters["step-1"].weights_sha256 == report.weights_sha256
    assert proof.data_sha256 == "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"
    other = spec.model_copy(update={"steps": [Step(argv=["train", "8"], cwd="/")]})
    for expected, seed, found in (
        (other, 8, result),
        (spec, 8, result),
        (spec, 7, result.model_copy(update={"seed": 9})),
    ):
        with pytest.raises(IntegrityError):
            prove_run(run, expected, seed, substrate, found, {})
    run.result.unlink()
    run.result.symlink_to(tmp_path / "job" / "spec.json")
    with pytest.raises(IntegrityError):
        prove_run(run, spec, 7, substrate, result, {})


def test_scores_must_be_of_what_lies_there() -> None:
    score = Score(dev=0.5, n=10, adapter_sha256="a")
    good = Scores(items_sha256="i", base_sha256="b", scores={"s": score, "t": Score(error="no")})
    wanted = {"s": ["x", "a"], "t": ["c"]}
    check_scores(good, wanted, "i", "b", written=200.0, trained=100.0)
    cases: list[tuple[Scores, dict[str, list[str]], str, str, float]] = [
        (good, wanted, "other items", "b", 200.0),
        (good, wanted, "i", "other base", 200.0),
        (good, wanted, "i", "b", 20.0),
        (good, {"s": ["a"]}, "i", "b", 200.0),
        (good, {**wanted, "u": ["d"]}, "i", "b", 200.0),
        (good, {**wanted, "s": ["z"]}, "i", "b", 200.0),
        (
            good.model_copy(
                update={
                    "scores": {"s": score.model_copy(update={"dev": 1.5}), "t": Score(error="no")}
                }
            ),
            wanted,
            "i",
            "b",
            200.0,
        ),
        (
            good.model_copy(
                update={
                    "scores": {
                        "s": score.model_copy(update={"adapter_sha256": None}),
                        "t": Score(error="no"),
                    }
                }
            ),
            wanted,
            "i",
            "b",
            200.0,
        ),
    ]
    for scores, adapters, items_sha, base_sha, written in cases:
        with pytest.raises(AevoError):
            check_scores(scores, adapters, items_sha, base_sha, written, 100.0)
