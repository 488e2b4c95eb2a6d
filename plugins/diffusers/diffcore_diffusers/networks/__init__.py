"""Networks of diffusers as networks of diffcore."""
