"""What survives a restart: jobs, their lines, results and generated prefixes, in one SQLite file."""
