"""Tests of `producer.dispatch`."""
