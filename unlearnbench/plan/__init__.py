"""What is to be run, and the contract of every plugin. No torch."""
