"""Many rows to verdicts: means and intervals, tests, ranks, noise floors, and what the controls say."""
