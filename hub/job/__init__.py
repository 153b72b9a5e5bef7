"""What a job says: events, frames, the log and cursors. Pure: the standard library, and pydantic for the catalogue."""
