"""Tests of `producer.doctor`."""
