"""The filters `url_list` and `word_list`: documents are dropped by lists of URLs and words in files of the user."""

from __future__ import annotations

from typing import Literal

from vita.data.curation.filter_table import FILTERS, Count, DropReason, Ratio
from vita.data.curation.list_files import load_url_list, load_word_list
from vita.data.curation.page_features import PageFeatures
from vita.data.curation.scripts import has_unspaced
from vita.spine.config import InputPath

URL_FIELDS = ("url", "source_url", "uri", "WARC-Target-URI")
"""Metadata with the URL of a document; the first that is a text is used. `url` is that of a WARC record."""
_SHOWN = 200
"""Maximum number of characters of a URL in a drop reason."""


@FILTERS.add("url_list")
def url_list(page: PageFeatures, *, file: InputPath, action: Literal["drop", "keep"] = "drop") -> DropReason | None:
    """Drop the pages whose URL is on a list, or with the action `keep` those whose URL is not, or that have none.

    An entry of the list is a domain, which includes its subdomains, or a host with the beginning of a path. The scheme
    and the port are not compared.
    """
    urls = load_url_list(file)
    metadata = page.document.metadata
    url = next((value for name in URL_FIELDS if isinstance(value := metadata.get(name), str) and value), None)
    if url is None:
        return DropReason("no_url", f"no metadata {', '.join(URL_FIELDS)}") if action == "keep" else None
    entry = urls.match(url)
    if action == "keep":
        return None if entry is not None else DropReason("not_listed", url[:_SHOWN])
    return None if entry is None else DropReason("listed", f"{url[:_SHOWN]} matches `{entry}`")


@FILTERS.add("word_list")
def word_list(
    page: PageFeatures,
    *,
    file: InputPath,
    max_count: Count | None = None,
    max_share: Ratio | None = None,
) -> DropReason | None:
    """Drop pages with more than `max_count` words and phrases of a list, or with more than a share of their words.

    Without both limits, the first match drops a page. The share is the number of matches per word.
    """
    matches, words = load_word_list(file).matches(page.text, page.data)
    if not matches:
        return None
    limit = 0 if max_count is None and max_share is None else max_count
    examples = ", ".join(f"`{match}`" for match in list(dict.fromkeys(matches))[:3])
    if limit is not None and len(matches) > limit:
        return DropReason("count", f"{len(matches)} matches, over {limit}: {examples}")
    words = page.word_count if has_unspaced(page.data) else words
    share = len(matches) / max(words, 1)
    if max_share is not None and share > max_share:
        return DropReason("share", f"{share:.4f} of the words, over {max_share}: {examples}")
    return None
