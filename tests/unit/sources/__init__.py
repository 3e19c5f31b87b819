"""Tests of `producer.sources`."""
