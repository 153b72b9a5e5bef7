"""The demo: simulated builds, web pages, a private Redis. It imports what an application would import."""
