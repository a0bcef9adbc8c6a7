"""How a service lives: a pure state, a loop that waits for it, an engine that computes off the loop."""
