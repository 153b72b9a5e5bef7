"""For workers: publishers, leases, and the states of a job. Imports `broker` and `job`."""
