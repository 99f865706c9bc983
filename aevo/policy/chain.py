"""A chain of digests over the records of finished rounds.

When a round's policy is written, its link is: the digests of plan, policies, manifests, scores,
predictions, inspections, leaderboard (its record and the vault's scores) and evidence, and of the
link before. The next plan, `aevo.evidence verify` and `aevo.status` compare. Guarantees: an edit of
any of these files after its round ended is named, unless its link was written anew too, and then
every link after it. Not prevented: that whoever owns the files rewrites all of them; keep the
digest of the last link elsewhere to notice that. Rounds of older campaigns have no link.
"""

import getpass
import os
import time
from pathlib import Path

from aevo.errors import RecordError
from aevo.files import digest
from aevo.files.documents import finished, read, write_json
from aevo.files.paths import Layout
from aevo.records.chain import Amendment, Link

PATTERNS = (
    "plan.yaml",
    "leaderboard.json",
    "evidence.json",
    "c*/manifest.json",
    "c*/eval/*/scores.json",
    "c*/eval/*/*.predictions.jsonl",
    "c*/checked/*/inspection.json",
    "c*/checked/*/judgement.json",
    "clearances.json",
    "meta/proposal.json",
)


def link_path(layout: Layout, number: int) -> Path:
    """Where a round's link lies."""
    return layout.round(number).root / "chain.json"


def seal(layout: Layout, number: int) -> None:
    """Writes the round's link, if it is missing."""
    path, before = link_path(layout, number), link_path(layout, number - 1)
    if finished(Link, path):
        return
    previous = digest.of_file(before) if before.exists() else None
    write_json(path, Link(round=number, previous=previous, files=_files(layout, number)))


def broken(layout: Layout) -> list[str]:
    """What of the finished rounds is not as its link says, one line a file."""
    lines, before = [], None
    for path in sorted(layout.root.glob("round-[0-9]*/chain.json")):
        link = read(Link, path)
        if before is not None and link.previous != before:
            lines.append(f"round {link.round}: the link of the round before is another one")
        before = digest.of_file(path)
        amended = {item.file: item.now for item in link.amendments}
        for name, sha in (link.files | amended).items():
            found = layout.root / name
            if not found.exists():
                lines.append(f"round {link.round}: {name} is missing")
            elif digest.of_file(found) != sha:
                lines.append(f"round {link.round}: {name} was edited after the round had ended")
    return lines


def check(layout: Layout) -> None:
    """Refuses to go on from records that were edited.

    Raises:
        RecordError: naming the first.
    """
    lines = broken(layout)
    if lines:
        more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
        raise RecordError(
            f"{lines[0]}{more}",
            "restore it; if the edit of a policy is meant: "
            f"python -m aevo.policy amend {layout.root} ROUND --reason TEXT",
        )


def amend(layout: Layout, number: int, reason: str) -> Amendment:
    """Takes the policy of round `number` as it is now, with a reason, into the chain.

    Raises:
        RecordError: no round led to it, it is as it was, or a round was planned from it already.
    """
    path, name = link_path(layout, number - 1), _name(layout, layout.policy(number))
    if not path.exists() or name not in (link := read(Link, path)).files:
        raise RecordError(
            f"no finished round led to the policy of round {number}",
            "before the first round ends a policy may be edited as it is",
        )
    if layout.round(number).plan.exists():
        raise RecordError(f"round {number} was planned already", "amend a policy before its round")
    known = {item.file: item.now for item in link.amendments}.get(name, link.files[name])
    now = digest.of_file(layout.policy(number))
    if now == known:
        raise RecordError(f"{name} is as it was", "edit it first")
    made = Amendment(
        file=name,
        was=known,
        now=now,
        reason=reason,
        by=_user(),
        time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
    write_json(path, link.model_copy(update={"amendments": [*link.amendments, made]}))
    return made


def _files(layout: Layout, number: int) -> dict[str, str]:
    root = layout.round(number).root
    found = [path for pattern in PATTERNS for path in root.glob(pattern)]
    found += [
        layout.policy(number),
        layout.policy(number + 1),
        layout.campaign,
        layout.vault / "board" / f"round-{number:02d}" / "scores.json",
    ]
    return {_name(layout, path): digest.of_file(path) for path in sorted(found) if path.is_file()}


def _name(layout: Layout, path: Path) -> str:
    return path.relative_to(layout.root).as_posix()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this number
        return str(os.getuid())
