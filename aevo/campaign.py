"""Runs a campaign: rounds in sequence, each from the policy that the one before it led to.

    python -m aevo.campaign rounds=4
    python -m aevo.campaign rounds=2 model=tiny seed=7
    python -m aevo.campaign -m seed=1,2

Run again, also with more rounds, it continues. Ends with the report.
"""

from aevo.config import Config, hydra_main
from aevo.report import write_report
from aevo.round import is_finished, run_round
from aevo.start import free_space, open_campaign


def main(config: Config) -> None:
    """The command."""
    layout, campaign = open_campaign(config)
    free_space(layout)
    print(f"campaign {layout.root}: {config.rounds} rounds of {config.worker.n} candidates, "
          f"model {config.model.name}, seed {config.seed}", flush=True)
    for number in range(1, config.rounds + 1):
        if not is_finished(layout, number):
            run_round(config, layout, campaign, number, stay=True)
    print(f"report: {write_report(layout.root)}", flush=True)


entry = hydra_main(main)

if __name__ == "__main__":
    entry()
