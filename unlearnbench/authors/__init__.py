"""For people who write plugins: what every method must pass, the problem it is tried on, a template."""
