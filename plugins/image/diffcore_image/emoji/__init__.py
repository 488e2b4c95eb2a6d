"""Emoji: pictures of many subjects with names and tags, and a network that retrieves the text of a picture."""
