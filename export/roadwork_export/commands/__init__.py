"""The subcommands of roadwork-export, a file a group."""
