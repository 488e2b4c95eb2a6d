"""What `import diffcore` gives: training, trained runs, and the parts for a network and a tensor of one's own."""
