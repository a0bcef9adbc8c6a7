"""The KV manager: it decides which request may hold which pages of which attention worker.

Owns: for every attention worker its free pages and the index of its sealed ones, and per request
the worker that it lives on and the pages that it holds. All of it is numbers; keys and values are
never here.

Receives (from the router): `WorkerJoined`, `WorkerLeaving`, `WorkerLost`, `SpeedsMeasured`,
`ReservePages`, `PagesFilled`, `ReleasePages`, and what the router says to every worker:
`Registered`, `RegisterRefused`, `RouterHeartbeat`, `Drain`.

Sends (to the router): `PagesReserved`, `PrefixAwaited`, `ReserveRefused`, `PagesReleased`,
`PoolsCounted`, and what every worker says: `Register`, `WorkerReady`, `Heartbeat`, `WorkerLost`.
"""
