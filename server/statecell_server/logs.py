"""Logs: the server's lines on standard error, as text or as JSON."""

import json
import logging
import sys
from datetime import UTC, datetime

FIELDS = ("rpc", "code", "seconds", "peer", "request_id", "session_id", "caller", "trace_id")
"""What a record may have beside its message, and then has in JSON as well."""
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: found for name in FIELDS if (found := getattr(record, name, None)) not in (None, "")}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)  # in ASCII, whatever a client has put in


def begin(level: str, form: str) -> None:
    """From now on: `form` is "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level, handlers=[handler])
