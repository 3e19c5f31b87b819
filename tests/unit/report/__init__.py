"""Tests of `producer.report`."""
