"""Take a picture of a page's beginning, for the documents.

python . explain "def main(" && python -m tests.pages.picture explain.html explain.png
"""

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.pages.browser import chromium, open_page

WIDTH, HEIGHT = 1120, 1300


def main() -> None:
    """Write the picture of the first file to the second."""
    page_path, picture_path = map(Path, sys.argv[1:])
    with chromium() as browser:
        viewport = {"width": WIDTH, "height": HEIGHT}
        page, _ = open_page(browser, page_path.resolve(), viewport=viewport)
        picture = Image.open(BytesIO(page.screenshot()))
        picture.quantize(128).save(picture_path, optimize=True)


if __name__ == "__main__":
    main()
