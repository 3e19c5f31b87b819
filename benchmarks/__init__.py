"""Measurements of imagefleet beside its peers; see ``benchmarks/README.md``."""
