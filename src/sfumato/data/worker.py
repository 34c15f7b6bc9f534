"""The program of a packing process: jobs and ranges come by stdin, results go to stdout."""

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
        try:
            start, stop = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = (True, job(start, stop))
        except Exception as error:
            answer = (False, error)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
