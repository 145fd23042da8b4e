"""A whole run: its configuration, its directory, and the way from data to result.json."""
