"""Errors of the state API."""

__all__ = ["RayStateApiException", "ServerUnavailable"]


class RayStateApiException(Exception):
    """A question that makes no sense, or could not be answered."""


class ServerUnavailable(RayStateApiException):
    """No session runs at the address, or it does not answer."""
