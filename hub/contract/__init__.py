"""The machine-readable contract: every frame and event type, as AsyncAPI, JSON Schema and TypeScript.

Imports `hub/job/` and the settings; nothing here runs while events are delivered.
"""
