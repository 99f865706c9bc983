"""Writes a campaign's report: the paper's Table 2 and Figure 3, and every round in detail.

    python -m aevo.report [runs/<campaign>] [--out DIR]

Without a folder it takes the campaign below `runs/` that changed last. An unfinished campaign is
reported as far as it got. Written to `<campaign>/report/`: `report.md`, the figures as PNG, and
`index.html`, which is self-contained (figures inlined, nothing is fetched).
"""

from pathlib import Path

from aevo import cli
from aevo.files.paths import latest_campaign
from aevo.view.report import FIGURES, write_report


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.parser("report", __doc__)
    parser.add_argument("--out", type=Path, help="default: <campaign>/report")
    options = parser.parse_args(arguments)
    root = options.campaign or latest_campaign(Path("runs"))
    page = write_report(root, options.out)
    pictures = [page.parent / f"{name}.png" for name in FIGURES]
    for path in (page.parent / "report.md", *(p for p in pictures if p.exists()), page):
        print(path)


if __name__ == "__main__":
    cli.run(main)
