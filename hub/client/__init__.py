"""The other end of the wire, in Python. Imports nothing of the server but `errors`."""
