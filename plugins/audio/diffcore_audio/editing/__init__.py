"""Reads sounds of the user, and fills in a part of them."""
