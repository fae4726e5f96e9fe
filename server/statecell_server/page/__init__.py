"""The page at `/` of the HTTP port: models, sessions and a session's state, live. Stands on `telemetry`. Needs the extra `http`."""
