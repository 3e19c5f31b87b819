"""The documentation, and what makes its produced parts."""
