"""Settings and limits of imagefleet, and the Redis configuration of its fleets."""

VERSION = "0.1.0"


class SettingsError(ValueError):
    """An environment variable has an invalid value; the message names the variable."""
