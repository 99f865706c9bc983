"""evaluator=vllm, engine processes and all, over a stand-in for it (tests/support/vllm_stand_in).

With AEVO_VLLM_COMMAND="/path/to/vllm-env/bin/python" the comparison with transformers runs over the
real one: `AEVO_VLLM_COMMAND=... scripts/test tests/stack/test_vllm.py -k transformers`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eval import evaluate as evaluation
from eval import fitting, shards
from eval.errors import EvaluationError
from eval.files import read_items
from eval.vllm import Settings, parse_settings
from safetensors.torch import load_file, save_file

from tests.conftest import until

pytestmark = pytest.mark.long(25)

STAND_IN = Path(__file__).parents[1] / "support" / "vllm_stand_in"
COMMAND = shlex.join(["env", f"PYTHONPATH={STAND_IN}", sys.executable])
# float32 as transformers here; batches of 8, so that there are several.
ENGINE = ["dtype=float32", "max_num_seqs=8", "enforce_eager=true"]
ITEMS = 40


@pytest.fixture(scope="module")
def few_items(items_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every sixth item, so that all domains are among them."""
    path = tmp_path_factory.mktemp("few") / "items.jsonl"
    path.write_text("".join(items_path.read_text().splitlines(keepends=True)[::6]))
    assert len(read_items(path)) == ITEMS
    return path


@pytest.fixture(scope="module")
def checkpoints(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters that answer differently: both of a run, and the last at twice its scale."""
    steps = {name: trained / "checkpoints" / f"step-0000{name}" for name in ("30", "60")}
    twice = Path(shutil.copytree(steps["60"], tmp_path_factory.mktemp("twice") / "adapter"))
    config = json.loads((twice / "adapter_config.json").read_text())
    config["lora_alpha"] *= 2
    (twice / "adapter_config.json").write_text(json.dumps(config))
    return {**steps, "twice": twice}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stand-in was started with and asked."""
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "stand-in.jsonl"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "stand-in.jsonl"


def arguments(
    items: Path,
    base: Path,
    out: Path,
    adapters: dict[str, Path],
    *more: str,
    command: str = COMMAND,
) -> list[str]:
    words = [
        "--items",
        items,
        "--base",
        base,
        "--out",
        out,
        "--decoder",
        "vllm",
        "--command",
        command,
        *more,
    ]
    for setting in ENGINE:
        words += ["--engine", setting]
    for name, folder in adapters.items():
        words += ["--adapter", f"{name}={folder}"]
    return [str(word) for word in words]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def asked_of(log: Path) -> list[str]:
    """The requests for items, without the canary's."""
    return [
        line["asked"]
        for line in lines(log)
        if "asked" in line and not line["asked"].startswith("canary")
    ]


def outputs(out: Path, name: str) -> list[tuple[str, str, bool]]:
    return [(r["id"], r["output"], r["correct"]) for r in lines(out / f"{name}.predictions.jsonl")]


def test_two_shards_and_hot_swap_give_what_transformers_gives(
    tiny_base: Path,
    few_items: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.environ.get("AEVO_VLLM_COMMAND")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5d0c" if real is None else "")
    both = {}
    for decoder in ("vllm", "hf"):
        out = both[decoder] = tmp_path / decoder
        more = ["--include-base"] + (["--decoder", "hf"] if decoder == "hf" else [])
        argv = arguments(few_items, tiny_base, out, checkpoints, *more, command=real or COMMAND)
        assert evaluation.main(argv) == 0
    ours, theirs = (json.loads((both[d] / "scores.json").read_text()) for d in ("vllm", "hf"))
    assert list(ours["scores"]) == ["base", *checkpoints]
    same = [
        a == b
        for name in ours["scores"]
        for a, b in zip(outputs(both["vllm"], name), outputs(both["hf"], name), strict=True)
    ]
    assert len(same) == 4 * ITEMS
    assert sum(same) >= 0.99 * len(same)
    assert {r["output"] for r in lines(both["vllm"] / "base.predictions.jsonl")} != {
        r["output"] for r in lines(both["vllm"] / "60.predictions.jsonl")
    }
    row = lines(both["vllm"] / "60.predictions.jsonl")[0]
    assert row["end"] == "stop" and row["tokens"] > 1
    if real is not None:
        return
    assert ours["scores"] == theirs["scores"]
    starts = [line for line in lines(log) if "start" in line]
    # Each engine one of the devices that were given; the challenge's settings are the defaults.
    assert sorted(start["start"] for start in starts) == ["3", "GPU-5d0c"]
    asked = asked_of(log)
    assert len(asked) == len(set(asked)) == 4 * ITEMS
    for start in starts:
        assert start["gpu"] == 0.85 and start["max_lora_rank"] == 32 and start["max_loras"] == 1
        assert start["enable_prefix_caching"] and start["enable_chunked_prefill"]
        assert start["max_model_len"] == 512  # 8192, but the model goes no further
    # Nothing is asked again, and nothing but the logs stays of the engines.
    assert sorted(p.name for p in (both["vllm"] / "engine").iterdir()) == [
        "shard-0.log",
        "shard-1.log",
    ]
    before = (both["vllm"] / "scores.json").read_bytes()
    (both["vllm"] / "scores.json").unlink()
    argv = arguments(
        few_items,
        tiny_base,
        both["vllm"],
        checkpoints,
        "--include-base",
        command="/no/python/is/needed",
    )
    assert evaluation.main(argv) == 0
    assert (both["vllm"] / "scores.json").read_bytes() == before


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_after_kill_9_the_missing_answers_alone_are_asked(
    tiny_base: Path,
    few_items: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    monkeypatch.setenv("STAND_IN_HOLD", str(hold))
    out, chosen = tmp_path / "out", {"60": checkpoints["60"]}
    argv = arguments(few_items, tiny_base, out, chosen, "--engine", "max_loras=2")
    process = subprocess.Popen(
        [sys.executable, "-m", "eval.evaluate", *argv],
        text=True,
        cwd=STAND_IN.parents[2] / "substrate" / "default",
    )
    part = out / "engine" / "shard-0.jsonl"
    try:
        until(lambda: any("item" in row for row in shards.rows_of(part)), 240)
        engine = lines(log)[0]["pid"]
        assert alive(engine)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    until(lambda: not alive(engine))  # a GPU would be free again
    first = {row["item"] for row in shards.rows_of(part) if "item" in row}
    assert 0 < len(first) < ITEMS
    with part.open("a") as handle:  # torn in the middle of a line
        handle.write('{"key": "')
    log.unlink()
    hold.unlink()
    argv = arguments(few_items, tiny_base, out, chosen, "--engine", "shards=2")
    assert evaluation.main(argv) == 0
    assert "2 engine(s) ready" in capsys.readouterr().out
    again = [int(text.split()[1]) for text in asked_of(log)]
    assert len(again) == len(set(again)) and first.isdisjoint(again)
    assert first | set(again) == set(range(ITEMS))
    rows = lines(out / "60.predictions.jsonl")
    assert [row["id"] for row in rows] == [item["id"] for item in read_items(few_items)]


def test_an_adapter_that_vllm_refuses_or_leaves_out_stops_no_other(
    tiny_base: Path,
    few_items: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, part = checkpoints["30"], tmp_path / "part"
    shutil.copytree(whole, part)
    tensors = load_file(part / "adapter_model.safetensors")
    kept = {name: t for name, t in tensors.items() if "layers.1.self_attn.o_proj" not in name}
    assert len(kept) == len(tensors) - 2
    save_file(kept, part / "adapter_model.safetensors")
    monkeypatch.setenv("STAND_IN_UNSUPPORTED", "layers.1.self_attn.o_proj")
    monkeypatch.setenv("STAND_IN_LEFT_OUT", "layers.0.mlp.up_proj")
    out = tmp_path / "out"
    argv = arguments(few_items, tiny_base, out, {"whole": whole, "part": part}, "--include-base")
    assert evaluation.main(argv) == 0
    scores = json.loads((out / "scores.json").read_text())["scores"]
    assert scores["base"]["n"] == ITEMS
    assert "expected target modules in" in scores["whole"]["error"]
    assert scores["part"] == {
        "error": "vLLM: 1 of its modules vLLM leaves out: model.layers.0.mlp.up_proj"
    }
    assert len(asked_of(log)) == ITEMS  # the base's alone


@pytest.mark.parametrize(
    ("variable", "value", "message", "asks"),
    [
        (
            "WRONG",
            "deaf",
            "canary: a loud adapter changed 0 of 8 texts: this vLLM does not apply",
            0,
        ),
        ("WRONG", "stained", "canary: the base answers otherwise after an adapter was loaded", 0),
        ("WRONG", "late", "canary: the base answers otherwise after the work", 1),
        ("VERSION", "0.21.0", "vLLM 0.21.0: from 0.20 to 0.22.1 a loaded adapter may change", 0),
    ],
)
def test_an_engine_that_does_not_treat_adapters_right_is_not_believed(
    variable: str,
    value: str,
    message: str,
    asks: int,
    tiny_base: Path,
    few_items: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log: Path,
) -> None:
    monkeypatch.setenv(f"STAND_IN_{variable}", value)
    one = {"60": checkpoints["60"]}
    assert evaluation.main(arguments(few_items, tiny_base, tmp_path / "out", one)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error, error
    assert len(asked_of(log)) == asks * ITEMS
    rows = shards.rows_of(tmp_path / "out" / "engine" / "shard-0.jsonl")
    assert not [row for row in rows if "item" in row]  # nothing is taken over by the next start


def test_a_start_that_is_believed_says_so(
    tiny_base: Path,
    few_items: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    log: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = arguments(few_items, tiny_base, tmp_path / "out", {"60": checkpoints["60"]})
    assert evaluation.main(argv) == 0
    assert "canary: a loud adapter changed" in capsys.readouterr().out
    canary = [line["asked"] for line in lines(log) if line.get("asked", "").startswith("canary")]
    assert len(canary) == 5 * 8  # base, canary, base, canary; and the base after the work


def test_limits_are_checked_before_an_engine_starts(
    tiny_base: Path,
    few_items: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = {"60": checkpoints["60"]}
    argv = arguments(few_items, tiny_base, tmp_path / "rank", one, "--engine", "max_lora_rank=1")
    assert evaluation.main(argv) == 0
    record = json.loads((tmp_path / "rank" / "scores.json").read_text())
    assert record["scores"]["60"] == {"error": "rank 8: the engine's max_lora_rank is 1"}
    argv = arguments(few_items, tiny_base, tmp_path / "short", one, "--engine", "max_model_len=9")
    assert evaluation.main(argv) == 2
    assert "max_model_len is 9: raise it" in capsys.readouterr().err
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    argv = arguments(few_items, tiny_base, tmp_path / "few", one, "--engine", "tensor_parallel=4")
    assert evaluation.main(argv) == 2
    assert "4 GPUs are needed (shards 1 x tensor_parallel 4) and 2 are here (0, 1)" in (
        capsys.readouterr().err
    )
    assert not log.exists()


@pytest.mark.parametrize(
    ("command", "fault", "message"),
    [
        ("", "", "no `command`; give the Python"),
        ("/no/such/python", "", "`command`: /no/such/python: No such file or directory"),
        (sys.executable, "", "No module named 'vllm': `command` must be the Python"),
        (
            COMMAND,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            "CUDA out of memory. Tried to allocate 2.00 GiB.: the GPU is too small: raise "
            "tensor_pa",
        ),
        (
            COMMAND,
            "ValueError: Free memory on device cuda:0 (9.1/79.2 GiB) on startup is less than "
            "desired GPU memory utilization (0.85, 67.3 GiB).",
            "something else holds memory",
        ),
        (
            COMMAND,
            "ValueError: No available memory for the cache blocks. Try increasing ...",
            "the GPU is too small",
        ),
        (
            COMMAND,
            "ValueError: To serve at least one request with the models's max seq len (8192), "
            "(9.0 GiB KV cache is needed, which is larger than ...",
            "the GPU is too small",
        ),
        (COMMAND, "RuntimeError: Worker failed with error 'no kernel'", "error 'no kernel'; log: "),
    ],
)
def test_an_engine_that_does_not_start_is_one_line(
    command: str,
    fault: str,
    message: str,
    tiny_base: Path,
    few_items: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log: Path,
) -> None:
    """The faults are the words of vLLM 0.17.1."""
    monkeypatch.setenv("STAND_IN_FAULT", fault)
    argv = arguments(few_items, tiny_base, tmp_path / "out", {}, "--include-base", command=command)
    assert evaluation.main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error, error
    if fault:
        assert "engine 0 ended with status 1: " in error
        place = Path(error.strip().rpartition("log: ")[2])
        assert fault in place.read_text()


def test_an_engine_that_is_killed_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes of any kind: one ends by a signal, the other would go on for a minute."""
    pair = [
        shards.Shard(
            n,
            tmp_path / f"task-{n}",
            tmp_path / f"shard-{n}.jsonl",
            tmp_path / f"shard-{n}.log",
            None,
        )
        for n in (0, 1)
    ]
    script = "import os, sys, time; '-0' in sys.argv[1] or time.sleep(60); os.kill(os.getpid(), 9)"
    with pytest.raises(EvaluationError, match=r"engine 0 ended with SIGKILL: no word of why; log"):
        shards.run([sys.executable, "-c", script], pair, 1)
    assert all(shard.process is not None and shard.process.returncode == -9 for shard in pair)


def none_found() -> int:
    return 0


@pytest.mark.parametrize(
    ("given", "size", "number", "count", "groups"),
    [
        (None, 1, 0, none_found, [None]),
        (None, 1, 3, none_found, [None, None, None]),
        ("", 1, 0, lambda: 8, [None]),  # Slurm gave none: what else is in the node is not ours
        (None, 1, 0, lambda: 2, ["0", "1"]),
        ("4,5,6,7", 2, 0, none_found, ["4,5", "6,7"]),
        ("4,5,6,7", 1, 2, none_found, ["4", "5"]),
        ("0,1,2", 2, 0, none_found, ["0,1"]),
        ("MIG-a/1/0", 1, 0, none_found, ["MIG-a/1/0"]),
    ],
)
def test_engines_share_the_devices_that_are_given(
    given: str | None, size: int, number: int, count: Callable[[], int], groups: list[str | None]
) -> None:
    around = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    assert shards.device_groups(around, size, number, count) == groups


def test_an_engine_gets_no_path_of_ours() -> None:
    around = {"PYTHONPATH": "/ours", "RANK": "3", "HOME": "/home/me", "CUDA_VISIBLE_DEVICES": "0,1"}
    given = shards.environment(around, "1")
    assert given["CUDA_VISIBLE_DEVICES"] == "1" and given["HOME"] == "/home/me"
    assert "PYTHONPATH" not in given and "RANK" not in given
    assert given["HF_HUB_OFFLINE"] == "1"


def test_settings_are_the_challenges_and_mistakes_are_named() -> None:
    assert parse_settings([]) == Settings(
        max_model_len=8192,
        max_num_seqs=0,
        max_lora_rank=32,
        gpu_memory_utilization=0.85,
        tensor_parallel=1,
        prefix_caching="auto",
        chunked_prefill=True,
    )
    given = parse_settings(["shards=0", "prefix_caching=false", 'extra={"kv_cache_dtype": "fp8"}'])
    assert given.prefix_caching == "false" and given.extra == {"kv_cache_dtype": "fp8"}
    for wrong, message in (
        ("shard=1", "NAME=VALUE, of max_model_len"),
        ("shards", "NAME=VALUE"),
        ("shards=x", "invalid literal"),
        ("max_num_seqs=-1", "positive"),
        ("dtype", "NAME=VALUE"),
        ("prefix_caching=1", "auto, true or false"),
        ("extra=[]", "a JSON object"),
        ("max_lora_rank=30", "vLLM has 1, 8"),
    ):
        with pytest.raises(EvaluationError, match=message):
            parse_settings([wrong])


NANO = {
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "M" * 23 + "E" * 23 + "*" * 6,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "mamba_num_heads": 64,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
}


@pytest.mark.parametrize(
    ("gib", "gpus", "rows"), [(140, 1, 512), (80, 1, 8), (80, 2, 512), (90, 1, 152), (None, 1, 64)]
)
def test_answers_at_once_fill_what_the_weights_leave(gib: int | None, gpus: int, rows: int) -> None:
    memory = None if gib is None else gib * 2**30
    assert fitting.at_once(NANO, 63 * 10**9, gpus, 0.85, lambda: memory) == rows


def test_prefixes_are_kept_where_that_has_hits() -> None:
    assert not fitting.keeps_prefixes(NANO) and fitting.keeps_prefixes({"model_type": "llama"})
