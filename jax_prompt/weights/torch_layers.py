"""Rules for the layers of torch that every family's networks are made of."""

from jax_prompt.weights.tables import NameRule, conv_kernel, transpose


def linear(pattern: str, path: str, part: tuple[int, int] = (0, 1)) -> tuple[NameRule, ...]:
    """A torch linear layer."""
    return (
        NameRule(rf'{pattern}\.weight', f'{path}/kernel', transpose, part),
        NameRule(rf'{pattern}\.bias', f'{path}/bias', part=part),
    )


def norm(pattern: str, path: str) -> tuple[NameRule, ...]:
    """A torch LayerNorm."""
    return (
        NameRule(rf'{pattern}\.weight', f'{path}/scale'),
        NameRule(rf'{pattern}\.bias', f'{path}/bias'),
    )


def conv(pattern: str, path: str) -> tuple[NameRule, ...]:
    """A torch convolution, also one of groups."""
    return (
        NameRule(rf'{pattern}\.weight', f'{path}/kernel', conv_kernel),
        NameRule(rf'{pattern}\.bias', f'{path}/bias'),
    )


def patch_conv(pattern: str) -> tuple[NameRule, ...]:
    """The convolution that embeds patches."""
    return conv(pattern, 'patch_embed')
