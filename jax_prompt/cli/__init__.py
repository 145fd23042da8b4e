"""The command `jax-prompt`: one small module a command, thin doors on the rooms below."""
