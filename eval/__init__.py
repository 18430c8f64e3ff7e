"""Benchmarks: metrics, protocols of other code bases, the runner and its reports."""
