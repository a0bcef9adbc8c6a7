"""The router: takes jobs in, keeps many microbatches in flight, and gives results out.

Owns: requests, their token ids and page tables; live microbatches; membership; the job store.
Receives: `member.*` from every worker; `kv.reserved`, `kv.awaited`, `kv.refused`,
    `kv.released`, `kv.counted`, `kv.tables_wanted`; `step.sampled` and `step.failed`; HTTP.
Sends: `step.forward`; `kv.reserve`, `kv.filled`, `kv.release`, `kv.speeds`, `kv.tables`; `member.*`
    to every worker.
"""
