"""What networks of stages have in common: how their blocks are divided, and how wide they are."""


class StagedConfig:
    """A network of stages of like blocks, each stage twice as wide as the one before.

    A family's configuration has the fields `width`, of the first stage, and `depths`, the blocks of
    each stage.
    """

    width: int
    depths: tuple[int, ...]

    @property
    def depth(self) -> int:
        """L, blocks of all stages."""
        return sum(self.depths)

    @property
    def starts(self) -> tuple[int, ...]:
        """Index of the first block of each stage."""
        return tuple(sum(self.depths[:i]) for i in range(len(self.depths)))

    @property
    def seams(self) -> tuple[int, ...]:
        """Layers at which blocks are parted in any case: those that begin a stage."""
        return self.starts

    @property
    def feature_dim(self) -> int:
        """Width of the pooled feature, which is that of the last stage."""
        return self.width_of(len(self.depths) - 1)

    def width_of(self, stage: int) -> int:
        """Returns the channels of a stage (of a ResNet those of its 3x3 convolutions)."""
        return self.width * 2**stage
