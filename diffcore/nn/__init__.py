"""Networks that several kinds of data share, their building blocks and their options."""
