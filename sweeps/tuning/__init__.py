"""Which points a search tries, and which of them it gives up: pure functions of space, seed and results."""
