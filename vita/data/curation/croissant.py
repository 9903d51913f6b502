"""Croissant metadata of an exported corpus: files with digests, columns, licences and how the text was prepared.

    write_croissant(Path("clean"), report)      # clean/croissant.json

The format is Croissant 1.0 of MLCommons (https://docs.mlcommons.org/croissant/docs/croissant-spec.html), with fields of
its vocabulary for responsible AI (https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html). The file has no
date, so that equal corpora have equal files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from vita.data.sources.curated_folders import CROISSANT
from vita.spine.disk import file_sha256

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""Terms of the format; readers expect exactly these."""
_CONFORMS_TO = ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"]
_RECORDS = {
    "train": "The training documents, with repeats.",
    "heldout": "The documents that are held out for evaluation.",
    "dropped": "The documents that were dropped, each with its reason.",
}
_COLUMN_TEXTS = {
    "id": "Identifier of the document.",
    "text": "Text of the document; for dropped documents only if `dropped_text` is set.",
    "source": "Name of the source.",
    "licence": "Licence of the document, as its source states it.",
    "metadata": "Other fields of the document, as JSON.",
    "split": "`train` or `held_out`.",
    "reason": "Rule that dropped the document.",
    "detail": "Value that the rule measured.",
    "repeats": "Text that the document repeats, as JSON.",
}


def write_croissant(folder: Path, report: Mapping[str, Any], columns: Mapping[str, Sequence[str]]) -> Path:
    """Write the metadata of an exported corpus; `columns` are those of the files in each subfolder."""
    path = folder / CROISSANT
    content = croissant(folder, report, columns)
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    return path


def croissant(folder: Path, report: Mapping[str, Any], columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the metadata of an exported corpus as JSON-LD."""
    documents, size = report["documents"], report["bytes"]["train_with_repeats"]
    description = (
        f"A text corpus of {documents['train_with_repeats']:,} training documents ({size:,} bytes) and "
        f"{documents['held_out']:,} held-out documents from {len(report['sources'])} sources; "
        f"{documents['dropped']:,} of {documents['read']:,} documents were dropped."
    )
    files = {name: sorted((folder / name).iterdir()) for name in _RECORDS if (folder / name).is_dir()}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": "corpus",
        "description": description,
        "conformsTo": _CONFORMS_TO,
        "license": sorted(report["licences"]),
        "inLanguage": sorted(
            language for language, row in report.get("languages", {}).items() if row["corpus"]["documents"]
        ),
        "distribution": [entry for name, paths in files.items() for entry in _distribution(name, paths)],
        "recordSet": [
            _record_set(name, columns[name]) for name, paths in files.items() if paths
        ],
        "rai:dataCollection": "; ".join(
            f"{source}: {row['read']['documents']:,} documents, {row['read']['bytes']:,} bytes read"
            for source, row in report["sources"].items()
            if row["read"]
        ),
        "rai:dataPreprocessingProtocol": list(_preparation(report)),
        "rai:personalSensitiveInformation": [
            f"{kind}: {row['values']:,} values in {row['documents']:,} documents, action: {row['action']}"
            for kind, row in report.get("personal_data", {}).items()
        ],
    }  # fmt: skip


def _preparation(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the filters with their settings, and the number of documents that each rule dropped."""
    for use in report["filters"]:
        settings = use.get("settings") or {}
        yield f"filter {use['name']}" + (f": {orjson.dumps(settings).decode()}" if settings else "")
    for reason, count in report["dropped"].items():
        yield f"dropped by {reason}: {count['documents']:,} documents, {count['bytes']:,} bytes"


def _distribution(name: str, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    if not paths:
        return
    for path in paths:
        yield {
            "@type": "cr:FileObject",
            "@id": f"{name}/{path.name}",
            "name": f"{name}/{path.name}",
            "contentUrl": f"{name}/{path.name}",
            "contentSize": f"{path.stat().st_size} B",
            "encodingFormat": _format(path.suffix),
            "sha256": file_sha256(path),
        }
    yield {
        "@type": "cr:FileSet",
        "@id": f"{name}-files",
        "name": f"{name}-files",
        "encodingFormat": _format(paths[0].suffix),
        "includes": f"{name}/*{''.join(paths[0].suffixes)}",
    }


def _format(suffix: str) -> str:
    """Return the media type of a file: Parquet or JSON lines. Readers see their compression from the name."""
    return "application/x-parquet" if suffix == ".parquet" else "application/jsonlines"


def _record_set(name: str, columns: Sequence[str]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": _RECORDS[name],
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": f"{name}/{column}",
                "description": _COLUMN_TEXTS[column],
                "dataType": "sc:Text",
                "source": {
                    "fileSet": {"@id": f"{name}-files"},
                    "extract": {"column": column},
                },
            }
            for column in columns
        ],
    }
