"""The KV manager: it decides which request may hold which pages of which attention worker.

Owns: for every attention worker its free pages, and per request the worker that it lives on and
the pages that it holds. All of it is numbers; keys and values are never here.

Receives (from the router): `WorkerJoined`, `WorkerLost`, `ReservePages`, `ReleasePages`, and what
the router says to every worker: `Registered`, `RegisterRefused`, `RouterHeartbeat`, `Drain`.

Sends (to the router): `PagesReserved`, `ReserveRefused`, `PagesReleased`, and what every worker
says: `Register`, `WorkerReady`, `Heartbeat`, `WorkerLost`.
"""
