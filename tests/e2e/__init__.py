"""End-to-end tests with a real Docker Engine: the Compose files as a new user runs them."""
