"""The page at `/` of the HTTP port: what is served, live. Stands on `telemetry` and `protocols`. Needs the extra `http`."""
