"""For workers: publishers, leases, and a job's life. Imports `broker` and `job`."""
