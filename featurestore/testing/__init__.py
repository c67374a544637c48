"""Conformance suites and strategies that any new backend can run."""
