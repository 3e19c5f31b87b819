"""Tests that need nothing but the package. Each file tests one module."""
