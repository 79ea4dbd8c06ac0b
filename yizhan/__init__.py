"""The front door: the `yizhan` command, the composition of rooms into processes, the embedded services."""
