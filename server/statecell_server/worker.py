"""The program that a supervisor starts: `python -m statecell_server.worker`, told what to do on standard input."""

import os
import pickle
import signal
import sys
import threading
import time

from statecell_server import logs
from statecell_server.__main__ import run

ORPHAN_SECONDS = 5.0
"""Beyond --drain-seconds, after which a worker whose supervisor is gone ends however it stands."""


def main() -> None:
    """Serves until SIGTERM, or until standard input ends: its writer is the supervisor, and lives as long."""
    config, said, place = pickle.load(sys.stdin.buffer)
    logs.begin(config.log_level, config.log_format)

    def watch() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(config.drain_seconds + ORPHAN_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="supervised", daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor tells all at once
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run(config, said, place)


if __name__ == "__main__":
    main()
