"""The bytes of a picture file -> an upright RGB picture. Fetching is in `lorabel.media.fetching`."""

import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

from lorabel.errors import UnreadableError

# Formats that browsers show. EPS must not be among them: Pillow would start Ghostscript on a stranger's file.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def decode_image(data: bytes, most_megapixels: int, enough_px: int | None = None) -> Image.Image:
    """Decode a picture, and turn it upright as its EXIF orientation says.

    Args:
        enough_px: a JPEG whose sides are both at least twice as long is decoded at a half, a quarter or an eighth
            of its size, which costs libjpeg less (https://pillow.readthedocs.io/en/stable/reference/Image.html,
            draft).

    Raises:
        UnreadableError: for good; the file is broken, has another format, or more than `most_megapixels`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
            megapixels = image.width * image.height / 1e6
            if megapixels > most_megapixels:
                raise UnreadableError(
                    f"picture of {megapixels:.1f} megapixels, more than {most_megapixels} (MEDIA_MAX_MEGAPIXELS)",
                    is_permanent=True,
                )
            if enough_px is not None:
                image.draft("RGB", (enough_px, enough_px))
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableError(
            f"file of {len(data)} bytes is no readable picture: {error}", is_permanent=True
        ) from error
