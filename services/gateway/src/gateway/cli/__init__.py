"""The command line of administration, over the admin API of a gateway."""
