"""uvicorn's WebSocket, with fewer system calls: a few messages are read ahead, and several frames leave at once."""

from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

MORE = "tokenturing.more"
"""in what is sent: more comes at once, wait for it"""
AHEAD, SMALL = 8, 2**14
"""messages that wait before no more is read, and the bytes of one for which reading stops at once"""


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's stops to read at each message until the application has taken it, and writes each frame by itself."""

    def send_receive_event_to_app(self) -> None:
        goes_on = not self.read_paused and self.queue.qsize() < AHEAD and sum(map(len, self.frames)) <= SMALL
        if goes_on:
            self.read_paused = True  # then it is not paused
        super().send_receive_event_to_app()
        if goes_on:
            self.read_paused = False

    async def send(self, message: Any) -> None:
        if message.get(MORE) and self.handshake_complete and not (self.disconnected or self.close_sent):
            try:
                if (data := message.get("bytes")) is not None:
                    self.conn.send_binary(data)
                else:
                    self.conn.send_text(message["text"].encode())
            except InvalidState:  # the other side closes
                raise ClientDisconnected from None
            return  # it leaves with the last of them
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # by a refusal, which is no fault to be logged
