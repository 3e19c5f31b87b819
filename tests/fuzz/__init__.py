"""Fuzz tests. hypothesis generates inputs from a grammar, and atheris varies inputs to reach more code."""
