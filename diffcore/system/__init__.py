"""The machine and its files: reading and writing safely, limits, the cache, progress and several processes."""
