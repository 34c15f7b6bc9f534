"""A job of packing processes that fails; in a module that they can import."""

from dataclasses import dataclass

from sfumato.data.packing_processes import HeaderReport


@dataclass(frozen=True)
class Failing:
    """Reads three images, or fails in one of the ways a job can."""

    error: Exception | None

    def __call__(self, start: int, stop: int) -> HeaderReport:
        print("printed by a library")
        if self.error is not None:
            raise self.error
        return HeaderReport({"4 6": stop - start}, start)
