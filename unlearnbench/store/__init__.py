"""Rows, evidence, scores and weights on disk, and the names under which they lie there."""
