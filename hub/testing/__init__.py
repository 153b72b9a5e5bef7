"""For the tests of applications that build on the hub: a pytest plugin. It
may import every room but the command line.
"""
