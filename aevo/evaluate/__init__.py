"""What the trusted side checks of a run itself, whatever the run says of it.

- `outputs`: the folder that a training run left behind.
- `overlap`: evaluation items in the data it trained on.
- `adapters`: the adapters it offers, and a copy of them that it cannot change any more.
- `proof`: which attempt of which job made it.
- `scores`: that scores are of what lies there now.

Nothing here imports torch, runs what a worker wrote, or follows a link or a path that it named.
"""

from aevo.evaluate.untrusted import IntegrityError

__all__ = ["IntegrityError"]
