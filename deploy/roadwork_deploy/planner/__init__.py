"""From "my GPUs" to a profile that fits: which models go where, and what each costs in memory."""
