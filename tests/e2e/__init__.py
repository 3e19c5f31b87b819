"""Tests on a real engine: the Compose file as a stranger would use it."""
