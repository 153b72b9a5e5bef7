"""Redis, and only here: connections, the one subscription, keys and scripts. Imports `job` and `settings`."""
