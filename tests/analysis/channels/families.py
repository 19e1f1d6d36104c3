"""All families: importing the modules registers them."""

from tests.analysis.channels import families_images, families_sequences
from tests.analysis.channels.family import FAMILIES, Family

__all__ = ["FAMILIES", "Family", "families_images", "families_sequences"]
