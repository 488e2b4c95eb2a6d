"""What a plugin offers: records, hooks, data, codecs and outputs, and the registry that finds them."""
