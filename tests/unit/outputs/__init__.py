"""Tests of tasks/outputs."""
