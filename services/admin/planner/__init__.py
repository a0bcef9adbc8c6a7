"""Plan before you buy: what a cluster would do, before it is there.

`published` is the original's simulator, as it was published; `simulation` runs the router's and the
KV manager's own states among workers that only let time pass; `search` compares cluster shapes.
"""
