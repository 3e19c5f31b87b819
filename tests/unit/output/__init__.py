"""Tests of `producer.output`."""
