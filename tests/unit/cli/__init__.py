"""Tests of `producer.cli`."""
