"""`LoggingConfig`: Python's root logger in the driver and its workers, with the task and actor on each record."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

    # Ray's, which libraries write to.
    logger: logging.Logger

__all__ = ["VARIABLE", "LoggingConfig", "apply_in_worker"]

# Tells a worker what the driver was given.
VARIABLE = "RAY_RS_LOGGING_CONFIG"

_ENCODINGS = ("TEXT", "JSON")
# Attributes of a `logging.LogRecord` that may be asked for besides those that are always there.
_ATTRIBUTES = (
    "args created exc_info exc_text funcName levelno module msecs msg name pathname process processName "
    "relativeCreated stack_info taskName thread threadName"
).split()
_CONTEXT = ("job_id", "worker_id", "node_id", "actor_id", "actor_name", "task_id", "task_name", "task_func_name")


class LoggingConfig:
    """How `logging` writes in the driver and in all workers of a job.

    Attributes:
        encoding: "TEXT", or "JSON" for one object a line.
        log_level: Least severe level that is written.
        additional_log_standard_attrs: Attributes of `logging.LogRecord` to write as well, such as "name".

    Example:
        >>> ray.init(logging_config=ray.LoggingConfig(encoding="JSON", log_level="INFO"))
    """

    def __init__(
        self, encoding: str = "TEXT", log_level: str = "INFO", additional_log_standard_attrs: list[str] | None = None
    ) -> None:
        """Checks and keeps the settings.

        Raises:
            ValueError: An unknown encoding, or an unknown attribute.
        """
        if encoding not in _ENCODINGS:
            raise ValueError(f"Invalid encoding type: {encoding}. Valid encoding types are: {list(_ENCODINGS)}")
        self.encoding = encoding
        self.log_level = log_level
        self.additional_log_standard_attrs = list(additional_log_standard_attrs or [])
        for attribute in self.additional_log_standard_attrs:
            if attribute not in _ATTRIBUTES:
                raise ValueError(
                    f"Unknown python logging standard attribute: {attribute}. The valid ones are: {_ATTRIBUTES}"
                )

    def __repr__(self) -> str:
        return (
            f"LoggingConfig(encoding={self.encoding!r}, log_level={self.log_level!r}, "
            f"additional_log_standard_attrs={self.additional_log_standard_attrs!r})"
        )

    def _to_json(self) -> str:
        import json

        return json.dumps([self.encoding, self.log_level, self.additional_log_standard_attrs])

    def _apply(self) -> None:
        """Gives the root logger of this process its only handler."""
        import logging

        handler = logging.StreamHandler()
        handler.setFormatter(_formatter(self.encoding, self.additional_log_standard_attrs))
        root = logging.getLogger()
        root.handlers = [handler]
        root.setLevel(self.log_level.upper() if isinstance(self.log_level, str) else self.log_level)


def default_config() -> LoggingConfig | None:
    """What RAY_LOGGING_CONFIG_ENCODING asks for, when `init` is given nothing."""
    encoding = os.environ.get("RAY_LOGGING_CONFIG_ENCODING")
    return LoggingConfig(encoding=encoding) if encoding else None


def apply_in_worker() -> None:
    """Does in a worker what `init` did in the driver."""
    text = os.environ.get(VARIABLE)
    if text:
        import json

        encoding, level, attributes = json.loads(text)
        LoggingConfig(encoding, level, attributes)._apply()


def _formatter(encoding: str, attributes: list[str]) -> Any:
    import json
    import logging

    class Formatter(logging.Formatter):
        """Ray's fields, in Ray's order."""

        def format(self, record: logging.LogRecord) -> str:
            message = super().format(record)
            fields: dict[str, Any] = {"asctime": self.formatTime(record), "levelname": record.levelname}
            fields.update(message=message, filename=record.filename if hasattr(record, "filename") else "")
            fields.update(lineno=record.lineno, **_context())
            fields.update({name: getattr(record, name, None) for name in attributes})
            fields["timestamp_ns"] = int(record.created * 1e9)
            if encoding == "JSON":
                return json.dumps(fields, default=str)
            details = " ".join(f"{name}={value}" for name, value in fields.items() if name not in _SHOWN)
            return f"{fields['asctime']}\t{record.levelname} {record.filename}:{record.lineno} -- {message} {details}"

    return Formatter()


_SHOWN = ("asctime", "levelname", "message", "filename", "lineno")


def _context() -> dict[str, str]:
    """Where the record was made: those of `_CONTEXT` that have a value."""
    from ray_rs import _core, runtime_context

    if not _core.is_initialized():
        return {}
    info = _core.process_info()
    found = {name: info[name].hex() for name in ("job_id", "worker_id", "node_id")}
    if info["is_driver"]:
        return found
    actor, task = _core.current_actor(), _core.current_task()
    if actor is not None:
        found.update(actor_id=actor[0].hex(), actor_name=str(runtime_context._actor_info["name"]))
    if task is not None:
        function = task.function
        name = f"{function.__module__}.{function.__qualname__}" if function is not None else task.name
        found.update(task_id=task.task_id.hex(), task_name=task.name, task_func_name=name)
    return {name: found[name] for name in _CONTEXT if found.get(name)}


def __getattr__(name: str) -> Any:
    if name != "logger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Not above: importing it costs more than most programs need it for.
    import logging

    return logging.getLogger("ray")
