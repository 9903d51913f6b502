"""The record of a life for people and other programs: model card, life page, exports and archive."""
