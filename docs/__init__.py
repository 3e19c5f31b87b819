"""The documentation, and the code that writes its produced parts."""
