"""The layer worker: it computes everything of its layers but attention (tier 1).

Owns: the weights of one layer range, and the visits of the microbatches that are now in it. No
request state: what a step needs travels with its microbatch.

Receives: `ForwardMicrobatch` (from the router, in the first range) or `HiddenStates` (from the
range before), `AttentionResult` (from attention workers), and what the router says to every
worker: `Registered`, `RegisterRefused`, `RouterHeartbeat`, `Drain`.

Sends: `AttentionRequest` (to attention workers), `HiddenStates` (to the next range) or
`SampledTokens` (to the router, from the last range), `StepFailed`, and what every worker of the
two tiers says: `Register`, `WorkerReady`, `Heartbeat`, `DrainWanted`, `WorkerLost`.
"""
