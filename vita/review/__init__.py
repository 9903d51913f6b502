"""Review by people: instructions for raters (`guideline`), storage of tasks and ratings (`desk`), generated answers
(`answers`) and results (`results`). Model and rule judges (`judges`) vote on the same tasks.
"""
