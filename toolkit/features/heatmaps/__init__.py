"""The parts of a photo that speak for a class, as seen by any of timm's networks."""
