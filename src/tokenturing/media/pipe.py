"""Standard input and named pipes, read in Python: FFmpeg's own reading of them does not notice Ctrl-C."""

import io
import os

STANDARD_INPUT = "-"


class Pipe:
    """A file object for PyAV that gives what is there, without waiting for a full buffer; it can seek where its file can."""

    def __init__(self, path: str) -> None:
        self._file = io.FileIO(os.dup(0)) if path == STANDARD_INPUT else io.FileIO(path)
        self._raised: BaseException | None = None
        if self._file.seekable():  # `tokenturing stream NAME - < film.mp4`
            self.seek, self.tell = self._file.seek, self._file.tell

    def read(self, size: int) -> bytes:
        """At most so many bytes; none at the end."""
        try:
            return self._file.read(size) or b""
        except BaseException as error:  # KeyboardInterrupt too, which PyAV would lose: it is raised by `check`
            self._raised = error
            return b""

    def check(self) -> None:
        """Raise what a read met."""
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised

    def close(self) -> None:
        """Release the pipe; standard input itself stays open."""
        self._file.close()
