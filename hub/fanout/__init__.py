"""The viewers of one log: who gets which bytes, and who is too slow. Imports `job`."""
