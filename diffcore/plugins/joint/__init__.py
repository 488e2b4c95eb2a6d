"""Joint states of two kinds of data or more, each with the codec, network, files and metrics of its own plugin."""
