"""Tests that every path and store passes: the suites of featurestore.testing."""
