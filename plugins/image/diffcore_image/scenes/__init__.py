"""Rendered pictures with sentences: the data set `scenes` and its judge."""
