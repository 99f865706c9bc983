"""Statistics of a round: pure functions of scores, without files or clocks.

All scores are accuracies in 0..1. Intervals are 95 %. Random numbers come from a fixed seed, so the
same inputs give the same figures on every machine.

- `paired`        item by item against the anchor: McNemar, bootstrap, minimum detectable effect
- `noise`         the spread between runs of one recipe, of dev and of the leaderboard
- `multiplicity`  family-wise error over a round's axes
- `effect`        a change's readings in one estimate; what one more trial of it would be worth
- `transfer`      dev against leaderboard: calibration, leverage, divergence, plateau
"""
