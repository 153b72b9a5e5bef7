"""One watched job: its messages and its retained log become frames in order. Imports `broker`, `fanout` and
`job`."""
