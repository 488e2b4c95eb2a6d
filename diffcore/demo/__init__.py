"""A local page in the browser with which a visitor draws samples of any trained run."""
