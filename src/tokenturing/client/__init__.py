"""Sessions on a server, from Python: no torch is needed.

>>> from tokenturing.client import connect
>>> with connect("http://127.0.0.1:8080") as server:
...     session = server.open("my-model", kind="media")
...     for event in session.step(frame=frame, sound=sound).events:
...         print(event.sense, event.what)
...     print(session.ask(*server.models[0].queries))

A connection that breaks off is made again, and what was not acknowledged is sent again: each input counts once. To come back
later, keep `session.id` and `session.secret`, and say `server.attach(id, secret)`.
"""

from tokenturing.client.asynchronous import AsyncClient, AsyncSession, connect_async
from tokenturing.client.results import ServerError, SessionLostError, StepResult
from tokenturing.client.synchronous import Client, Session, connect

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "Client",
    "ServerError",
    "Session",
    "SessionLostError",
    "StepResult",
    "connect",
    "connect_async",
]
