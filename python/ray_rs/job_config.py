"""`JobConfig`: settings of a job, gathered in an object; `init` takes it beside parameters of its own."""

from __future__ import annotations

from typing import Any

from ray_rs.options import check_namespace

__all__ = ["JobConfig"]

_LIFETIMES = ("detached", "non_detached")


class JobConfig:
    """Settings of a job.

    Attributes:
        runtime_env: As `init(runtime_env=...)`.
        metadata: Strings by name, for whoever looks at the job.
        ray_namespace: As `init(namespace=...)`.
        default_actor_lifetime: `lifetime` of actors that say nothing: "detached" or "non_detached".
    """

    def __init__(
        self,
        jvm_options: list[str] | None = None,
        code_search_path: list[str] | None = None,
        runtime_env: dict[str, Any] | None = None,
        _client_job: bool = False,
        metadata: dict[str, str] | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = "non_detached",
        _disable_job_level_lineage_reconstruction: bool = False,
        _py_driver_sys_path: list[str] | None = None,
    ) -> None:
        if jvm_options or code_search_path:
            raise NotImplementedError(
                "jvm_options and code_search_path are of Java and C++, and ray_rs's workers run Python only."
            )
        self.jvm_options: list[str] = []
        self.code_search_path: list[str] = []
        self.runtime_env: dict[str, Any] = dict(runtime_env or {})
        self.metadata: dict[str, str] = {}
        self.ray_namespace: str | None = None
        self._client_job = _client_job
        self._py_driver_sys_path = list(_py_driver_sys_path or [])
        self.set_ray_namespace(ray_namespace)
        self.set_default_actor_lifetime(default_actor_lifetime)
        for key, value in (metadata or {}).items():
            self.set_metadata(key, value)

    def set_metadata(self, key: str, value: str) -> None:
        """Adds a string for whoever looks at the job.

        Raises:
            TypeError: Not strings.
        """
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError("metadata must be a dictionary of strings")
        self.metadata[key] = value

    def set_runtime_env(self, runtime_env: dict[str, Any] | None, validate: bool = False) -> None:
        """Replaces the runtime environment; it is checked by `init`, or now with `validate`."""
        if validate and runtime_env:
            from ray_rs.runtime_env import RuntimeEnv

            RuntimeEnv(**runtime_env)
        self.runtime_env = dict(runtime_env or {})

    def set_ray_namespace(self, ray_namespace: str | None) -> None:
        """Replaces the namespace.

        Raises:
            TypeError: Not a string.
            ValueError: An empty one.
        """
        check_namespace(ray_namespace)
        self.ray_namespace = ray_namespace

    def set_default_actor_lifetime(self, default_actor_lifetime: str) -> None:
        """Replaces the lifetime of actors that say nothing.

        Raises:
            ValueError: Neither "detached" nor "non_detached".
        """
        if default_actor_lifetime not in _LIFETIMES:
            raise ValueError(
                f"Default actor lifetime must be one of `detached`, `non_detached`, but got {default_actor_lifetime!r}."
            )
        self.default_actor_lifetime = default_actor_lifetime

    def set_code_search_path(self, code_search_path: list[str]) -> None:
        """Not for Python; see the constructor.

        Raises:
            NotImplementedError: Always, unless it is empty.
        """
        if code_search_path:
            raise NotImplementedError("code_search_path is of Java and C++, and ray_rs's workers run Python only.")

    @classmethod
    def from_json(cls, job_config_json: dict[str, Any]) -> JobConfig:
        """Makes one of a dictionary with the names of the constructor's parameters."""
        known = (
            "runtime_env",
            "metadata",
            "ray_namespace",
            "default_actor_lifetime",
            "jvm_options",
            "code_search_path",
        )
        return cls(**{name: job_config_json[name] for name in known if job_config_json.get(name)})
