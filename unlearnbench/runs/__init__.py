"""Cells to rows: one cell, the banks of models, jobs over processes and devices, tuning."""
