"""How long the command line takes to answer: python benchmarks/startup.py"""

import json
import statistics
import subprocess
import sys
import time

from peers import RESULTS, machine

COMMANDS = (("--help",), ("train", "--help"), ("--version",), ("info",))
REPEATS = 5


def main() -> None:
    rows = []
    for command in COMMANDS:
        seconds = []
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "sfumato", *command], stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began)
        rows.append({"command": " ".join(command), "seconds": statistics.median(seconds[1:])})
        print(f"sfumato {rows[-1]['command']:14} {rows[-1]['seconds']:.3f} s")
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "rows": rows}
    (RESULTS / "startup.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
