"""Review by people: what they are asked (`guideline`), the desk that keeps tasks and votes (`desk`), the answers before
them (`answers`), and what comes of it (`results`). Model and rule judges (`vita.review.judges`) vote on the same tasks.
"""
