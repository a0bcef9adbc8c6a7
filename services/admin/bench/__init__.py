"""What `glinthawk bench` measures."""
