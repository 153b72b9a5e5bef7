"""Every live test fails if an error is logged."""

from tests.support.quiet import nothing_is_logged_as_an_error

__all__ = ["nothing_is_logged_as_an_error"]
