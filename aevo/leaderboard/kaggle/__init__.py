"""A Kaggle competition as the leaderboard, through the official package."""
