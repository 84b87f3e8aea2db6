"""uvicorn's WebSocket, which stops to read at each message until the application has taken it; this one has a few ahead."""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

AHEAD, SMALL = 8, 2**14
"""messages that wait before no more is read, and the bytes of one for which reading stops at once"""


class Socket(WebSocketsSansIOProtocol):
    """Two system calls less for each message."""

    def send_receive_event_to_app(self) -> None:
        goes_on = not self.read_paused and self.queue.qsize() < AHEAD and sum(map(len, self.frames)) <= SMALL
        if goes_on:
            self.read_paused = True  # then it is not paused
        super().send_receive_event_to_app()
        if goes_on:
            self.read_paused = False
