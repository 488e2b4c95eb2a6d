"""Images for diffcore."""
