"""The program of a packing process: a job (pickled by the parent, which made it) and then ranges
come by stdin; results go to stdout as JSON, a line each.
"""

import json
import os
import pickle
import signal
import sys


def main() -> None:
    """Answer until stdin ends, which it also does when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    requests = sys.stdin.buffer
    # Whatever a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    job = pickle.load(requests)
    while True:
        line = requests.readline()
        if not line.endswith(b"\n"):
            return
        try:
            answer = {"answer": job(*json.loads(line)).to_json()}
        except OSError as error:
            answer = {"error": ["OSError", [error.errno, error.strerror or str(error)]]}
        except Exception as error:
            answer = {"error": [type(error).__name__, [str(error)]]}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
