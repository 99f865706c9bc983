"""docs/scale.md: the sheets of the models that ship, with what they rest on."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from aevo.config.schema import Config
from aevo.studies.scale import published, sheet
from aevo.studies.scale.adapter import by_target
from aevo.studies.scale.architecture import active, known, parameters
from aevo.studies.scale.assumptions import Assumptions
from aevo.studies.scale.hardware import SHEETS
from aevo.studies.scale.sheet import size
from aevo.studies.scale.storage import base_bytes
from aevo.studies.scale.table import table

Configure = Callable[[list[str]], tuple[Assumptions, Config]]


@dataclass(frozen=True)
class Column:
    """A configuration of a section: what it is called, and its overrides."""

    head: str
    words: str


MODELS = {
    "nemotron3_nano_30b": "Nemotron 3 Nano 30B-A3B",
    "nemotron3_super_120b": "Nemotron 3 Super 120B-A12B",
    "nemotron3_ultra_550b": "Nemotron 3 Ultra 550B-A55B",
    "tiny_nemotron_h": "tiny_nemotron_h",
    "tiny": "tiny",
}
EIGHT = "trainer.processes=8 model.train.gpus=8"
SECTIONS = {
    "Nemotron 3 Nano 30B-A3B": [
        Column("as configured", "cluster=h200 model=nemotron3_nano_30b"),
        Column("8 engines", "cluster=h200 model=nemotron3_nano_30b model.evaluate.gpus=8"),
        Column("peft", "cluster=h200 model=nemotron3_nano_30b trainer=peft"),
        Column(
            "megatron, 8 GPUs",
            f"cluster=h200 model=nemotron3_nano_30b {EIGHT} trainer.options.expert=8",
        ),
        Column("bridge", f"cluster=h200 model=nemotron3_nano_30b trainer=bridge {EIGHT}"),
    ],
    "Nemotron 3 Super 120B-A12B": [
        Column("as configured", "cluster=h200 model=nemotron3_super_120b"),
        Column("on H100", "cluster=h200 model=nemotron3_super_120b gpu=h100"),
        Column(
            "one node",
            "cluster=h200 model=nemotron3_super_120b trainer.nodes=1 "
            "trainer.options.tensor=2 trainer.options.expert=8",
        ),
    ],
    "Nemotron 3 Ultra 550B-A55B": [
        Column("as configured", "cluster=h200 model=nemotron3_ultra_550b"),
        Column(
            "in bf16",
            "cluster=h200 model=nemotron3_ultra_550b evaluator=vllm "
            "evaluator.options.tensor_parallel=8",
        ),
        Column("on H100", "cluster=h200 model=nemotron3_ultra_550b gpu=h100"),
    ],
    "The small ones": [
        Column("tiny", "model=tiny"),
        Column("tiny_nemotron_h", "model=tiny_nemotron_h trainer=megatron"),
    ],
}
HEAD = """# Scale sheets

Written by `python -m aevo.scale write docs/scale.md`; do not edit. A test compares this page with
what the command prints. Each column is computed from the conf files that a campaign with the same
words would use, and from the architecture below; another configuration is one command away:

    python -m aevo.scale cluster=h200 model=nemotron3_super_120b trainer.options.tensor=4
    python -m aevo.scale cluster=h200 model=nemotron3_nano_30b row_tokens=8192 check=true

`check=true` ends with exit code 7 where the configuration has a problem. **None of the three large
models has been run with this repository**: sizes follow from the architecture, times are estimates
within 35 % of the published runs below, evaluations are not compared with anything.
"""
READING = """## How to read them

- **Memory** is of the fullest GPU, at the widest forward pass. Base weights are frozen and have no
  gradients; a layer keeps for its backward pass what adapters, activations and norms read. With
  pipeline stages the first or the last is the fullest. Logits are counted as if every position were
  learned. `mamba-ssm`'s kernels are taken for granted: the scan in plain torch keeps more than
  twice as much. What other layers keep is compared with what torch really keeps, by a test.
- **trainer=peft** holds base and activations in fp32 by default (`precision`, `recompute`) and
  passes all rows of a batch at once.
- **trainer=bridge** with `tensor`, `pipeline` and `expert` 0 has the layout of Megatron-Bridge's
  LoRA recipe for the model, and computes anew what that does. It reads a second copy of the base,
  in megatron's format, whose import has identified it.
- Routed experts carry no adapter and multi-token prediction is not trained, by any of the trainers.
- **Time**: `layer_ms` for each layer of each forward pass, and FLOPs at `kernel_mfu` of the peak;
  of a frozen matrix the backward pass has half. trainer=peft and trainer=megatron were never timed
  on a GPU: theirs are guesses by the same two figures.
- **A round**: the anchor's seeds and one training an explorer (planned), or as many as
  `worker.trainings` allows (at most); after each training its checkpoints answer the dev items; at
  the end the leaderboard's submissions answer the hidden ones. The campaign's first evaluation, of
  the bare base, is not in it.
- **Traffic**: other trainers and evaluators identify the base by its digest, which reads it whole,
  before each process reads its part. Adapters are written twice, by the run and as the judged copy.
  A state comes after 25 steps or 20 seconds and replaces the one before it; of trainer=bridge after
  10 steps, and two are kept.
"""


def text(configure: Configure) -> str:
    """The whole page.

    Args:
        configure: words of the command line to the command's own keys and a configuration.
    """
    assumed = Assumptions()  # of what no column sets
    parts = [HEAD, _models(), _adapters(), READING]
    for title, columns in SECTIONS.items():
        sheets = []
        for column in columns:
            own, config = configure(column.words.split())
            sheets.append(sheet.of(config, own, files=False))
        commands = "".join(_command(column.words) for column in columns)
        shown = table(sheets, [column.head for column in columns])
        parts.append(f"## {title}\n\n{commands}\n{shown}")
    return "\n".join([*parts, _published(assumed), assumptions(assumed)])


def assumptions(assumed: Assumptions) -> str:
    """The assumptions and their values, as a table."""
    rows = "".join(
        f"| `{key}` | {_plain(getattr(assumed, key))} | {field.description} |\n"
        for key, field in Assumptions.model_fields.items()
    )
    return (
        "## Assumptions\n\n| key | value | what it is |\n|---|---|---|\n"
        f"{rows}| GPUs | | {SHEETS} |\n"
    )


def _command(words: str) -> str:
    """A command in lines that fit a page, indented as code."""
    lines = textwrap.wrap(
        f"python -m aevo.scale {words}",
        96,
        break_long_words=False,
        break_on_hyphens=False,
        subsequent_indent="    ",
    )
    return "    " + " \\\n    ".join(lines) + "\n"


def _models() -> str:
    rows, sources = "", ""
    for name, title in MODELS.items():
        model = known(name)
        kinds = "/".join(str(model.layers(kind)) for kind in "ME*-")
        with_mtp = f"{parameters(model, mtp=True):,}" if model.mtp else "–"
        rows += (
            f"| {title} | {len(model.pattern)}, {kinds} | {parameters(model):,} | "
            f"{active(model):,} | {with_mtp} | {size(base_bytes(model))} |\n"
        )
        missing = f" Not verified: {', '.join(model.unverified)}." if model.unverified else ""
        sources += f"| {title} | {' '.join(model.source.split())}.{missing} |\n"
    return (
        "## The models\n\n| model | layers, M/E/\\*/- | parameters | a token goes through | "
        f"with multi-token prediction | checkpoint |\n|---|---|---|---|---|---|\n{rows}\n"
        f"| model | source of its architecture |\n|---|---|\n{sources}"
    )


def _adapters() -> str:
    groups = ["attention", "mamba", "shared experts", "routed experts", "lm_head"]
    rows = ""
    for name in list(MODELS)[:3]:
        found = by_target(known(name), 32)
        rows += (
            f"| {MODELS[name]} | "
            f"{' | '.join(f'{found[group] / 1e6:,.1f}M' for group in groups)} |\n"
        )
    return (
        "LoRA parameters at rank 32, were each group a target (they grow with the rank):\n\n"
        f"| model | {' | '.join(groups)} |\n|{'---|' * (len(groups) + 1)}\n{rows}\n"
        "aevo refuses adapters above 8 GiB, and so does leaderboard=kaggle as it is set: those "
        "of Super's or\nUltra's routed experts at rank 32 would not pass, not even in bf16.\n"
    )


def _published(assumed: Assumptions) -> str:
    runs = ""
    for run in published.lora_runs():
        found = run.estimate(assumed)
        runs += (
            f"| {run.what} | {run.seconds:.1f} s, {run.rate:,.0f} | {found.seconds:.1f} s, "
            f"{found.rate / run.layout.ranks:,.0f} | {found.seconds / run.seconds:.2f} |\n"
        )
    counts = "".join(
        f"| {run.what} | {run.tflops:.1f} | {run.estimate():.1f} |\n"
        for run in published.throughputs()
    )
    return f"""## Against published runs

From the model verification cards and the performance summary of Megatron-Bridge. LoRA, rank 32,
one row a forward pass. `layer_ms` is the geometric mean of what the three would have it: none is a
test of it alone, but one figure serves all three within 35 %. A GB200 has 2.5 times an H100's
peak and is no faster: such runs wait for the host.

| run | published: step, positions a second and GPU | estimated | ratio |
|---|---|---|---|
{runs}
FLOPs a position, checked where both rates are published (TFLOP/s a GPU, by their convention of
three forward passes):

| run | published | by our count |
|---|---|---|
{counts}"""


def _plain(value: object) -> str:
    return "null" if value is None else f"{value:,}" if isinstance(value, int) else f"{value}"
