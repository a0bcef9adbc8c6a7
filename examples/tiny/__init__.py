"""The shipped model: its tasks, its training, and the demo's batch file."""
