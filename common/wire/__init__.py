"""How it is said: frames, codec, sockets. The only place that knows msgpack and ZeroMQ.

`codec` turns messages into frames and back, `transport` carries them: one PULL inbox per process
(`inbox`), one PUSH link per target (`links`). `describe` writes `docs/protocol.md` from the
declarations.
"""
