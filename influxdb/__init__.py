"""What the compose stack's database needs at first boot; part of the image, not of the wheel."""
