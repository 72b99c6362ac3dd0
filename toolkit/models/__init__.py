"""Models from timm with their pretrained weights, and the losses that train them."""
