"""Files and rows in, records out: readers, formats, and the reasons for which a row is left out."""
