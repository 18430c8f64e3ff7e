"""Pages for people: of one run, of a leaderboard, and the pictures and charts on them."""
