"""Tests of `producer.local_fleet`."""
