"""Writes sounds to files, and draws their waveforms and spectrograms."""
