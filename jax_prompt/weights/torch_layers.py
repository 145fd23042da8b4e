"""Rules for the layers of torch that every family's networks are made of."""

from jax_prompt.weights.tables import Rule, conv_kernel, transpose


def linear(pattern: str, path: str, part: tuple[int, int] = (0, 1)) -> tuple[Rule, ...]:
    """A torch linear layer."""
    return (
        Rule(rf'{pattern}\.weight', f'{path}/kernel', transpose, part),
        Rule(rf'{pattern}\.bias', f'{path}/bias', part=part),
    )


def norm(pattern: str, path: str) -> tuple[Rule, ...]:
    """A torch LayerNorm."""
    return (
        Rule(rf'{pattern}\.weight', f'{path}/scale'),
        Rule(rf'{pattern}\.bias', f'{path}/bias'),
    )


def patch_conv(pattern: str) -> tuple[Rule, ...]:
    """The convolution that embeds patches."""
    return (
        Rule(rf'{pattern}\.weight', 'patch_embed/kernel', conv_kernel),
        Rule(rf'{pattern}\.bias', 'patch_embed/bias'),
    )
