"""What a data recipe says about its dataset; a dataset that is built from it carries this along."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """Where a dataset comes from. A data recipe may define `about = About(...)`.

    Attributes:
      description: what it holds, in a few sentences.
      homepage: the address of its page.
      version: of the published data, as its publishers write it.
      license: of the data; photos may have their own.
      citation: what to cite, as BibTeX.
    """

    description: str = ""
    homepage: str = ""
    version: str = ""
    license: str = ""
    citation: str = ""
