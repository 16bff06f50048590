"""One page that shows a comparison: ``comparison.html``, which needs no other file and asks no other host.

In: the files of a comparison. Out: HTML with plotly and the pictures inside. No torch.
"""

from vita_core.comparing.page.writing import write_page

__all__ = ["write_page"]
