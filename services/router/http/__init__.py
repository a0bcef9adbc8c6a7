"""The router's HTTP API: OpenAI's files and batches, and what an operator asks."""
