"""The embedded profile: one machine, one supervisor that starts, watches and restarts the processes."""
