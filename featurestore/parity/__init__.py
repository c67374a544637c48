"""Proof that online and offline agree: the serving log, verify and explain."""
