"""Inputs that nobody thought of: made by hypothesis from what they look like, and by atheris from what they reach."""
