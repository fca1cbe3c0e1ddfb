"""A part of a picture: a rectangle, which may be turned. See `lorabel.contracts.Content`."""

from pydantic import BaseModel, ConfigDict, Field

# Decimals of positions: a ten-thousandth of a side. An accepted prediction keeps its place only about, and its
# features are remembered by its place.
DECIMALS = 4


class Part(BaseModel):
    """A rectangle in a picture.

    Positions are fractions of the picture's width and height as people see it, after its EXIF orientation.

    Args:
        x: of its middle, from the left.
        y: of its middle, from the top.
        width: before it is turned; as a share of the picture's width.
        height: as a share of the picture's height.
        rotation: by how many degrees it is turned clockwise around its middle, in pixels of the picture.
    """

    model_config = ConfigDict(frozen=True)
    x: float
    y: float
    width: float = Field(gt=0)
    height: float = Field(gt=0)
    rotation: float = 0.0

    def grown(self, share: float) -> "Part":
        """Return the part with a margin around it.

        Args:
            share: width of the margin on each side, as a share of that side of the part.
        """
        factor = 1 + 2 * share
        return Part(
            x=self.x, y=self.y, width=factor * self.width, height=factor * self.height, rotation=self.rotation
        )

    def rounded(self) -> "Part":
        """Return the part with DECIMALS decimals, and no side that is 0."""
        smallest = 10**-DECIMALS
        return Part(
            x=round(self.x, DECIMALS),
            y=round(self.y, DECIMALS),
            width=max(smallest, round(self.width, DECIMALS)),
            height=max(smallest, round(self.height, DECIMALS)),
            rotation=round(self.rotation, 1),
        )
