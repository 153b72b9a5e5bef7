"""The one room that knows Redis: connections, subscription, keys, scripts. Imports `job` and `settings`."""
