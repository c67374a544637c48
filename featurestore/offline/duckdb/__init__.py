"""The embedded engine: everything that talks to DuckDB."""
