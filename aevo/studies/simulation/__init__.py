"""Campaigns on a response surface instead of training: the same decisions at no cost.

- `calibrate`  measured effects of moves, condensed and shrunk into a data file
- `surface`    what every move truly does to dev and to the hidden target, and how moves interact
- `world`      what a run on the surface shows: noise of seeds and items, the leaderboard's rounding
- `campaign`   a campaign of aevo on a world, by the code that real rounds run
- `ablation`   the same without one of its parts
- `searchers`, `tpe`   other methods at the same number of runs
- `study`      many campaigns, and the table of what came out
"""
