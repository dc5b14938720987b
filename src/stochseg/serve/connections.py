"""Connections that do not get on are closed, so that they cannot take the places of all others."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


def patient_for(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which by itself waits for ever for a first request, the rest of one, or a reader."""

    class Patient(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._before: tuple[object, int] = (None, 0)
            self.loop.call_later(seconds, self._look)

        def _look(self) -> None:
            """Close where nothing is asked, or an answer lies there, just as at the look before."""
            if self.transport.is_closing():
                return
            left = self.transport.get_write_buffer_size()
            asked = self.cycle is not None and not self.cycle.response_complete
            if (not asked or left) and self._before == (self.cycle, left):
                self.transport.abort()
                return
            self._before = (self.cycle, left)
            self.loop.call_later(seconds, self._look)

    return Patient
