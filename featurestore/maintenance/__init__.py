"""Upkeep of what is stored: compaction, removal of old versions, and erasure of keys."""
