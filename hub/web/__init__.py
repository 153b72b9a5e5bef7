"""The FastAPI application: routes, authentication, metrics. Imports `transports` and the rows below it."""
