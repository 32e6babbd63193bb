"""The gateway: one OpenAI-compatible entrance to every endpoint, on raw asyncio protocols.

    protocol.py   the client's side of a connection: HTTP/1.1 in, answers out
    heads.py      heads of messages that come again are compared, not parsed
    routes.py     which path is what, and the answers that need no engine
    call.py       one request on its way to a replica and back
    upstream.py   replicas, and the pool of connections to them
    router.py     pure: who may call what, and which replica takes it
    body.py       the request's body: what is read of it, what is changed
    sse.py        the answer as a stream: what is read of it, what is changed
    answer.py     the answer as one body, and what an engine's error means
    snapshot.py   keys, routes and grants, and their copy on disk
    spool.py      usage records on disk, until delivered
    feeds.py      the loops that talk to the control plane and to Ray
    server.py     puts it together; __main__.py starts it

Nothing on the way of a request waits for the control plane, the database or Ray.
"""
