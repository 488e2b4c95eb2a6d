"""Files, overviews and parts of the report that show images."""
