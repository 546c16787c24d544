"""Benchmarks of gn_det: one module per subcommand of tools/benchmark.py, and shared parts."""
