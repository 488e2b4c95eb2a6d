"""Data sets of sounds: made, official formats and a user's own folder."""
