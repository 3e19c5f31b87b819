"""Tests of `tasks.throttle`."""
