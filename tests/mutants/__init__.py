"""Mistakes planted on purpose, to see which tests notice: ``python -m tests.mutants``."""
