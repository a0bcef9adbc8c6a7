"""The attention worker: it holds keys and values, and computes attention on them (tier 2).

Owns: a pool of pages with the keys and values of all layers, and of each page the last microbatch
that wrote it. No page table and no request state: each entry brings its table along.

Receives: `AttentionRequest` (from layer workers), and what the router says to every worker:
`Registered`, `RegisterRefused`, `RouterHeartbeat`, `Drain`.

Sends: `AttentionResult` (to layer workers), `StepFailed` (to the router), and what every worker
of the two tiers says: `Register`, `WorkerReady`, `Heartbeat`, `DrainWanted`, `WorkerLost`.
"""
