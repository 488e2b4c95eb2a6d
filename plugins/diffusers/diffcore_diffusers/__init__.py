"""Models in the layout of Hugging Face's diffusers, as runs of diffcore and back."""
