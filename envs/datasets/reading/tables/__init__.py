"""Copies of the sets as tables: parquet, arrow, JSON lines, in a folder or on the hub."""
