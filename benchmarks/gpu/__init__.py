"""What only a GPU can show: that it computes the same, and how fast."""
