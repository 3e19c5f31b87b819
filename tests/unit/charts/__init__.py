"""Tests of `producer.charts`."""
