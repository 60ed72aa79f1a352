"""Write what docs/reference says of the code, between the marks of each page.

.venv/bin/python scripts/reference
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from reference.pages import PAGES, written

if __name__ == "__main__":
    for page in PAGES:
        page.path.write_text(written(page))
