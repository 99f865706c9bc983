"""Shows what a worker did, turn by turn: `python -m aevo.trace show <candidate folder>`."""

from aevo import cli
from aevo.view.trace import main

if __name__ == "__main__":
    cli.run(main)
