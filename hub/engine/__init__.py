"""The process: which jobs are watched, by whom, and how that begins and ends. Imports `feed` and the rows
below it."""
