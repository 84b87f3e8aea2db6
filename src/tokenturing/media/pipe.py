"""Standard input and named pipes, read in Python: FFmpeg's own reading of them does not notice Ctrl-C."""

import io
import os

STANDARD_INPUT = "-"


class Pipe:
    """A file object for PyAV that gives what is there, without waiting for a full buffer; it can seek where its file can."""

    def __init__(self, path: str) -> None:
        self._file = io.FileIO(os.dup(0)) if path == STANDARD_INPUT else io.FileIO(path)
        if self._file.seekable():  # `tokenturing stream NAME - < film.mp4`
            self.seek, self.tell = self._file.seek, self._file.tell

    def read(self, size: int) -> bytes:
        """At most so many bytes; none at the end."""
        return self._file.read(size) or b""

    def close(self) -> None:
        """Release the pipe; standard input itself stays open."""
        self._file.close()
