"""What every live test is held to."""

from tests.support.quiet import nothing_is_logged_as_an_error

__all__ = ["nothing_is_logged_as_an_error"]
