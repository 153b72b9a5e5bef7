"""What a job says: events, frames, the log and cursors. Pure; only the catalogue needs pydantic."""
