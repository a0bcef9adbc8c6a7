"""The router: takes jobs in, keeps many microbatches in flight, and gives results out.

Owns: requests, their token ids and page tables; live microbatches; membership; the job store.
Receives: `member.*` from every worker; `kv.reserved`, `kv.refused`, `kv.released`;
    `step.sampled` and `step.failed`; HTTP.
Sends: `step.forward`; `kv.reserve`, `kv.release`; `member.*` to every worker.
"""
