"""The demo: simulated builds, their pages, a private Redis. Imports what an application would."""
