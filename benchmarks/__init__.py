"""Benchmarks: ours beside the limit, and a peer where there is one, in one run on one machine."""
