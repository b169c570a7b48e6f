"""Suites of the benchmark (``*.toml``) and benchmarks of the harness itself (``bench_*.py``)."""
