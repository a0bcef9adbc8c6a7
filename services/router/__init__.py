"""The router: takes jobs in, keeps many microbatches in flight, and gives results out.

Owns: requests, their token ids and page tables; live microbatches; membership; the job store.
Receives: `member.*` from every worker; `kv.reserved`, `kv.awaited`, `kv.refused`,
    `kv.released`, `kv.counted`; `step.sampled` and `step.failed`; HTTP.
Sends: `step.forward`; `kv.reserve`, `kv.filled`, `kv.release`, `kv.speeds`; `member.*` to every
    worker.
"""
