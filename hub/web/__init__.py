"""FastAPI: the application, its routes, who a viewer is, metrics. Imports `transports` and the rows below it."""
