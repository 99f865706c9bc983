"""Sheets as Markdown: one column a configuration, one line a figure."""

from collections.abc import Callable, Sequence

from aevo.studies.scale.sheet import Sheet, binary, size

HOUR = 3600.0
NONE = "–"
Line = tuple[str, Callable[[Sheet], str]]


def table(sheets: Sequence[Sheet], heads: Sequence[str]) -> str:
    """All lines of some sheets, under their heads."""
    rows = [["", *heads], ["---"] * (len(heads) + 1)]
    rows += [[label, *(show(sheet) for sheet in sheets)] for label, show in LINES]
    rows += [
        ["**problems**", *("; ".join(sheet.problems) or "none" for sheet in sheets)],
        ["notes", *("; ".join(sheet.notes) or "none" for sheet in sheets)],
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _layout(sheet: Sheet) -> str:
    own = sheet.layout
    return f"{own.tensor} x {own.pipeline} x {own.expert} x {own.data}"


def _gpus(sheet: Sheet) -> str:
    own = sheet.layout
    if sheet.gpu is None:
        return f"{own.ranks} process(es), CPU"
    return f"{own.nodes} x {own.gpus} {sheet.gpu.name}"


def _total(sheet: Sheet) -> str:
    needed = sheet.memory.total
    if sheet.gpu is None:
        return f"**{binary(needed)}**"
    fits = "" if needed <= sheet.gpu.memory else ": **does not fit**"
    return f"**{binary(needed)}** of {binary(sheet.gpu.memory)}{fits}"


def _part(name: str) -> Callable[[Sheet], str]:
    return lambda sheet: binary(getattr(sheet.memory, name))


def _round(pick: str) -> Callable[[Sheet], str]:
    def show(sheet: Sheet) -> str:
        own = sheet.round
        if own is None:
            return NONE
        count = getattr(own, pick)
        if not sheet.evaluates:
            return f"{count * own.training.gpu_hours:,.1f} ({count} trainings, not evaluated)"
        return f"{own.gpu_hours(count):,.1f} ({count} trainings)"

    return show


def _training(sheet: Sheet) -> str:
    own = sheet.round
    return (
        NONE
        if own is None
        else (f"{own.training.seconds / HOUR:.2f} h, {own.training.gpu_hours:,.1f}")
    )


def _scoring(sheet: Sheet) -> str:
    own = sheet.round
    if own is None or not sheet.evaluates:
        return NONE if own is None else "does not fit"
    return f"{own.evaluation.seconds / HOUR:.2f} h, {own.evaluation.gpu_hours:,.1f}"


def _board(sheet: Sheet) -> str:
    own = sheet.round
    if own is None or not own.submissions:
        return NONE if own is None else "scored elsewhere"
    if not sheet.evaluates:
        return "does not fit"
    return f"{own.leaderboard.seconds / HOUR:.2f} h, {own.leaderboard.gpu_hours:,.1f}"


def _step(sheet: Sheet) -> str:
    return NONE if sheet.step is None else f"{sheet.step.seconds:.1f} s"


def _rate(sheet: Sheet) -> str:
    return NONE if sheet.step is None else f"{sheet.step.rate / sheet.layout.ranks:,.0f}"


def _work(sheet: Sheet) -> str:
    return (
        NONE
        if sheet.step is None
        else (f"{sheet.step.flops / 1e15:.2f} PFLOP, {100 * sheet.step.mfu:.1f} %")
    )


def _evaluated(sheet: Sheet) -> str:
    own = sheet.evaluation
    return NONE if own is None else f"{binary(own.memory)} on {own.used}; {own.answer:,} tokens"


def _reads(sheet: Sheet) -> str:
    own = sheet.round
    return NONE if own is None else (f"{size(own.training.reads)}, {size(own.evaluation.reads)}")


def _traffic(sheet: Sheet) -> str:
    own = sheet.round
    return (
        NONE
        if own is None
        else (f"{size(own.reads(own.trainings))}, {size(own.trainings * sheet.storage.written)}")
    )


LINES: list[Line] = [
    ("trainer", lambda sheet: sheet.layout.trainer),
    ("nodes x GPUs", _gpus),
    ("tensor x pipeline x expert x data", _layout),
    ("rows x positions of a step", lambda s: f"{s.layout.rows} x {s.layout.row_tokens:,}"),
    ("rows of a forward pass, passes", lambda s: f"{s.layout.micro_rows}, {s.layout.microbatches}"),
    ("trained parameters, rank", lambda s: f"{s.storage.trained:,}, {s.layout.adapter.rank}"),
    ("fullest GPU: weights", _part("weights")),
    ("adapter", _part("adapter")),
    ("gradients", _part("gradients")),
    ("optimiser", _part("optimiser")),
    ("activations", _part("activations")),
    ("logits", _part("logits")),
    ("tokens to and from experts", _part("dispatch")),
    ("allocator, CUDA, NCCL", _part("reserve")),
    ("in all", _total),
    ("host memory of a node while it reads", lambda s: NONE if s.host is None else binary(s.host)),
    ("step", _step),
    ("positions a second and GPU", _rate),
    ("work of a step, share of peak", _work),
    ("training, GPU-hours", _training),
    ("evaluation: memory, GPUs; an answer", _evaluated),
    ("evaluation of a training, GPU-hours", _scoring),
    ("leaderboard's evaluation, GPU-hours", _board),
    ("candidates of a round, steps of a run", lambda s: f"{s.candidates}, {s.steps}"),
    ("**round, GPU-hours**: planned", _round("trainings")),
    ("at most", _round("most")),
    ("base on disk", lambda s: size(s.storage.base * (2 if s.layout.trainer == "bridge" else 1))),
    ("adapter file, resume state", lambda s: f"{size(s.storage.adapter)}, {size(s.storage.state)}"),
    ("a run writes, keeps", lambda s: f"{size(s.storage.written)}, {size(s.storage.kept)}"),
    ("base read by a training, an evaluation", _reads),
    ("**round's traffic**: base read, adapters and states written", _traffic),
]
