"""Runs a campaign: rounds in sequence, each from the policy that the one before it led to.

    python -m aevo.campaign rounds=4
    python -m aevo.campaign rounds=2 model=tiny seed=7
    python -m aevo.campaign rounds=4 cluster=h200 model=nemotron3_nano_30b follow=false
    python -m aevo.campaign -m seed=1,2

Run again, also with more rounds, it continues. Ends with the report. On Slurm all rounds are
submitted at once, each waiting for the one before it; the command then only follows.
"""

from aevo.config.schema import Config
from aevo.files.paths import Layout
from aevo.round import is_finished, run_round, show_submitted, submit_round
from aevo.start.command import hydra_main
from aevo.start.forecast import ask_slurm
from aevo.start.opening import open_campaign
from aevo.start.preflight import free_space
from aevo.studies.scale import refusal
from aevo.view.dryrun import show_graph


def main(config: Config) -> None:
    """The command."""
    refusal.check(config)
    numbers = range(1, config.rounds + 1)
    if config.dry_run:
        show_graph(config, list(numbers), "python -m aevo.campaign")
        return
    if not Layout(config.root).campaign.exists():
        ask_slurm(config, 1)
    campaign = open_campaign(config)
    layout = campaign.layout
    free_space(layout)
    print(
        f"campaign {layout.root}: {config.rounds} rounds of {config.worker.n} candidates, "
        f"model {config.model.name}, seed {config.seed}",
        flush=True,
    )
    unfinished = [number for number in numbers if not is_finished(layout, number)]
    if config.cluster.kind == "slurm":
        submitted = {number: submit_round(campaign, number) for number in unfinished}
        if not config.follow:
            for number, specs in submitted.items():
                show_submitted(layout, number, specs)
            return
    for number in unfinished:
        run_round(campaign, number, stay=True)
    from aevo.view.report import write_report

    print(f"report: {write_report(layout.root)}", flush=True)


entry = hydra_main(main)

if __name__ == "__main__":
    entry()
