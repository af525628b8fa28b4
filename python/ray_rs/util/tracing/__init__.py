"""OpenTelemetry: hooks for `init(_tracing_startup_hook=...)`."""
