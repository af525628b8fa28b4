"""Functions and actors in other languages: there are none. The names are here to say so."""

from __future__ import annotations

from enum import Enum
from typing import Any, NoReturn

__all__ = ["Language", "cpp_actor_class", "cpp_function", "java_actor_class", "java_function"]


class Language(Enum):
    """Languages that Ray has workers in; ray_rs has Python's."""

    PYTHON = 0
    JAVA = 1
    CPP = 2


def java_function(class_name: str, function_name: str) -> NoReturn:
    """Not there.

    Args:
        class_name: Ray's.
        function_name: Ray's.

    Raises:
        NotImplementedError: Always.
    """
    raise _refusal("Java")


def java_actor_class(class_name: str) -> NoReturn:
    """Not there.

    Args:
        class_name: Ray's.

    Raises:
        NotImplementedError: Always.
    """
    raise _refusal("Java")


def cpp_function(function_name: str) -> NoReturn:
    """Not there.

    Args:
        function_name: Ray's.

    Raises:
        NotImplementedError: Always.
    """
    raise _refusal("C++")


def cpp_actor_class(create_function_name: str, class_name: Any = None) -> NoReturn:
    """Not there.

    Args:
        create_function_name: Ray's.
        class_name: Ray's.

    Raises:
        NotImplementedError: Always.
    """
    raise _refusal("C++")


def _refusal(language: str) -> NotImplementedError:
    return NotImplementedError(f"ray_rs has workers for Python only, none for {language}.")
