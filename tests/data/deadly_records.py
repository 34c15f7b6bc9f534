"""Records of which one kills the process that reads it. Light: packing processes import it."""

import os
import signal
from dataclasses import dataclass

from sfumato.data.source import Records


@dataclass(frozen=True)
class Deadly(Records):
    """One image ends the process that decodes it, as a bug in a decoder would."""

    good: bytes
    deadly: int

    def read(self, index: int) -> bytes:
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGSEGV)
        return self.good
