"""What tests of diffcore and of plugins can compare with."""
