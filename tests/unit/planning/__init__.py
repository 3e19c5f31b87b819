"""Tests of `producer.planning`."""
