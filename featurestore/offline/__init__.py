"""The row log and point-in-time retrieval over it."""
