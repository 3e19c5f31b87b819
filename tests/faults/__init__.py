"""Faults on purpose: what stands in for a part of a worker to break it."""
