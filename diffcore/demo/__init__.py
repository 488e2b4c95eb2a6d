"""A local page in the browser for any run (only the description of its controls so far)."""
