"""Tests of one module each; they need nothing but the package."""
