"""How the colours of an image are normalised: (value in [0, 1] - mean) / std, a channel each."""

Colour = tuple[float, float, float]  # of red, green and blue

HALF: Colour = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
