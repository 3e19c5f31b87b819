"""Tests of `producer.runs`."""
