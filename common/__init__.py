"""What all services stand on: words, errors, messages, the wire, policies and how a service lives."""
