"""Other APIs over chat completions: a request is translated, answered as a chat, and its answer is translated back.

The gateway forwards, continues, records and counts the chat request, so that limits, versions and streams that survive
the death of a replica are the same in every API.
"""
