"""Data sets of sounds: synthesised drums, Speech Commands and a user's own folder."""
