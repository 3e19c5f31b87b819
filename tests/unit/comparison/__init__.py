"""Tests of `producer.comparison`."""
